//! Streams that share fewer slabs than there are streams: each waits for memory again and again, with
//! its last partial sector on the way from one slab to the next.

use crate::bare_datanode::{Client, Datanode, bytes, create, send_evenly};
use crate::ring::SLAB_BYTES;

const WRITERS: u64 = 8;
/// Ends inside a sector, so that every change of slabs has something to move.
const PACKET: usize = 64_512;

#[test]
fn writers_without_enough_slabs_for_all_take_turns_and_lose_nothing() {
    let datanode = Datanode::start_with_pool(2 * SLAB_BYTES as u64);
    let content = bytes(3 << 20);
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (content, address) = (&content[writer as usize..], datanode.address);
            scope.spawn(move || {
                let mut client = Client::connect_to(address);
                client.start_write(&create(writer, Vec::new()));
                send_evenly(&mut client, content, 0, PACKET);
                client.finish(content.len() as u64, 1, 0);
            });
        }
    });
    for writer in 0..WRITERS {
        datanode.assert_holds(writer, &content[writer as usize..]);
    }
    assert_eq!(datanode.held_slabs(), 0);
    assert_eq!(datanode.server.counters.blocks_written.get(), WRITERS);
}
