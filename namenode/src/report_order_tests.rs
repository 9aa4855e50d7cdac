//! Reports that are delayed, repeated and out of order, at random.

use proptest::collection::vec;
use proptest::prelude::*;
use ringfs_protocol::block::BlockId;

use crate::block_manager::StoredBlocks;
use crate::simulated_datanodes::World;

/// What may happen to a cluster whose reports do not keep their order.
#[derive(Clone, Debug)]
enum Event {
    Write(usize),
    Append(usize),
    Delete(usize),
    LowerReplication(usize),
    FullReport(usize),
    Restart(usize),
    Heartbeat(usize),
    /// The message at this place of a datanode's outbox arrives, and perhaps stays to arrive again.
    Arrive {
        datanode: usize,
        place: usize,
        again: bool,
    },
    Pass(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => any::<usize>().prop_map(Event::Write),
        2 => any::<usize>().prop_map(Event::Append),
        1 => any::<usize>().prop_map(Event::Delete),
        2 => any::<usize>().prop_map(Event::LowerReplication),
        2 => (0usize..5).prop_map(Event::FullReport),
        1 => (0usize..5).prop_map(Event::Restart),
        6 => (0usize..5).prop_map(Event::Heartbeat),
        14 => (0usize..5, any::<usize>(), prop::bool::weighted(0.3))
            .prop_map(|(datanode, place, again)| Event::Arrive { datanode, place, again }),
        3 => (1u64..4).prop_map(Event::Pass),
    ]
}

impl World {
    fn pick(&self, number: usize) -> Option<BlockId> {
        let blocks = self.namespace.blocks.lock();
        blocks.keys().nth(number % blocks.len().max(1)).copied()
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Write(number) => {
                let holders: Vec<usize> = (0..3).map(|index| (number % 5 + index) % 5).collect();
                self.write(&holders, 3);
            }
            Event::Append(number) => {
                if let Some(id) = self.pick(number) {
                    self.append(id);
                }
            }
            Event::Delete(number) => {
                if let Some(id) = self.pick(number) {
                    self.delete(id);
                }
            }
            Event::LowerReplication(number) => {
                if let Some(id) = self.pick(number) {
                    let replication = self.namespace.stored_block(id).unwrap().replication;
                    self.set_replication(id, (replication - 1).max(1));
                }
            }
            Event::FullReport(number) => self.send_full_report(number),
            Event::Restart(number) => {
                self.register(number);
                self.send_full_report(number);
            }
            Event::Heartbeat(number) => self.heartbeat(number),
            Event::Arrive { datanode, place, again } => {
                let outbox = &mut self.datanodes[datanode].outbox;
                if outbox.is_empty() {
                    return;
                }
                let place = place % outbox.len();
                let message = if again { outbox[place].clone() } else { outbox.remove(place) };
                self.deliver(datanode, message);
            }
            Event::Pass(seconds) => {
                for _ in 0..seconds {
                    self.clock.advance(1000);
                    while self.manager.tick() {}
                }
                // Nobody dies of what is not tested here.
                for number in 0..self.datanodes.len() {
                    self.heartbeat(number);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// [`World::delete_replica`] watches over every deletion.
    #[test]
    fn reports_in_any_order_never_cost_a_replica_that_is_needed(
        seed in any::<u64>(), events in vec(event(), 1..120),
    ) {
        let mut world = World::new(5, seed);
        for event in events {
            world.happen(event);
        }
        // All that is still on its way arrives, then everybody reports in full: what is believed is
        // true in the end, and every block is healthy.
        world.deliver_all();
        world.pass(25);
        world.report_all();
        world.pass(45);
        world.assert_healthy();
    }
}
