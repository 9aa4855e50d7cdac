//! Several disks at once: loop devices with a file system each, one of which says that it rotates.
//! Making them takes root.

use std::path::{Path, PathBuf};
use std::process::Command;

use ringfs_protocol::block::BlockId;
use ringfs_protocol::messages::Status;

use crate::bare_datanode::{Client, Datanode, bytes, create, send_evenly};
use crate::volume::tests::{POOL, volume_at};
use crate::volume_profile::Medium;

const BLOCK: usize = 4 << 20;
const PACKET: usize = 64_512;
const WRITERS: u64 = 8;

/// A mounted loop device, gone with the value.
struct Disk {
    device: String,
    mount_point: PathBuf,
}

impl Disk {
    fn make(directory: &Path, rotates: bool) -> Self {
        let (image, mount_point) = (directory.join("image"), directory.join("disk"));
        std::fs::create_dir_all(&mount_point).unwrap();
        std::fs::File::create(&image).unwrap().set_len(128 << 20).unwrap();
        let device = run("losetup", &["--find", "--show", &image.to_string_lossy()]);
        let disk = Self { device, mount_point };
        let name = disk.device.trim_start_matches("/dev/");
        let flag = if rotates { "1" } else { "0" };
        std::fs::write(format!("/sys/block/{name}/queue/rotational"), flag).unwrap();
        run("mkfs.ext4", &["-q", &disk.device]);
        run("mount", &[&disk.device, &disk.mount_point.to_string_lossy()]);
        disk
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.mount_point).status();
        let _ = Command::new("losetup").args(["-d", &self.device]).status();
    }
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {error}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn each_disk_is_written_to_as_its_medium_wants() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not run: loop devices take root");
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let disks = [true, false]
        .map(|rotates| Disk::make(&temp.path().join(format!("rotates-{rotates}")), rotates));
    let volumes = disks.each_ref().map(|disk| volume_at(disk.mount_point.join("d")));
    let mediums = volumes.each_ref().map(|volume| volume.profile().medium);
    assert_eq!(mediums, [Medium::Rotational, Medium::SolidState]);
    assert!(volumes.iter().all(|volume| volume.direct_io()));
    let datanode = Datanode::start_on("127.0.0.1", volumes.to_vec(), tempfile::tempdir().unwrap());
    let content = bytes(BLOCK);
    std::thread::scope(|scope| {
        for id in 0..WRITERS {
            let (address, content) = (datanode.address, &content);
            scope.spawn(move || {
                let mut client = Client::connect_to(address);
                let reply = client.start_write(&create(id, Vec::new()));
                assert_eq!(reply.status(), Status::Success);
                send_evenly(&mut client, content, 0, PACKET);
                client.finish(BLOCK as u64, 1, 0);
            });
        }
    });
    let mut written = [0; 2];
    for id in 0..WRITERS {
        datanode.assert_holds(id, &content);
        let replica = datanode.server.dataset.replica(POOL, BlockId(id)).unwrap();
        let root = replica.volume().root().to_owned();
        written[volumes.iter().position(|volume| volume.root() == root).unwrap()] += 1;
    }
    assert!(written.iter().all(|count| *count > 0), "{written:?}");
    assert_eq!(datanode.held_slabs(), 0);
    drop((datanode, volumes));
    drop(disks);
}
