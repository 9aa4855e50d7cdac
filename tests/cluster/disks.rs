//! Disks of a test's own, made to fail for real: file systems on loop images, shut down or remounted
//! under those who use them. Needs root, loop devices and mkfs; what is missing fails the test.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::temporary_directory;

/// `XFS_IOC_GOINGDOWN`, which ext4 takes as well; 2: without writing the log, so that every later
/// call gives EIO.
const SHUT_DOWN: &str = "
import fcntl, os, struct, sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack('I', 2))
";

#[derive(Clone, Copy, Debug)]
pub enum FileSystem {
    Ext4,
    Xfs,
}

/// A mounted file system; it is gone when this is dropped.
pub struct LoopVolume {
    mount_point: PathBuf,
    directory: TempDir,
}

impl LoopVolume {
    pub fn new(kind: FileSystem, mib: u64) -> Self {
        let directory = temporary_directory();
        let image = directory.path().join("image");
        fs::File::create(&image).unwrap().set_len(mib << 20).unwrap();
        let mount_point = directory.path().join("mounted");
        fs::create_dir(&mount_point).unwrap();
        let (mkfs, options) = match kind {
            FileSystem::Ext4 => (&["mkfs.ext4", "-q", "-F"], "loop,errors=remount-ro"),
            FileSystem::Xfs => (&["mkfs.xfs", "-q", "-f"], "loop"),
        };
        run(Command::new(mkfs[0]).args(&mkfs[1..]).arg(&image));
        run(Command::new("mount").args(["-o", options]).args([&image, &mount_point]));
        Self { mount_point, directory }
    }

    /// For `dfs.datanode.data.dir`.
    pub fn data_dir(&self) -> PathBuf {
        self.mount_point.join("data")
    }

    /// Every later call on it gives EIO.
    pub fn shut_down(&self) {
        run(Command::new("python3").args(["-c", SHUT_DOWN]).arg(&self.mount_point));
    }

    /// The file system notes an error, and is read-only from then on: as after a bad sector.
    pub fn err_to_read_only(&self) {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let point = self.mount_point.display().to_string();
        let line = mounts.lines().find(|line| line.split(' ').nth(1) == Some(&point)).unwrap();
        let device = line.split(' ').next().unwrap().trim_start_matches("/dev/");
        fs::write(format!("/sys/fs/ext4/{device}/trigger_fs_error"), "by the test").unwrap();
    }

    /// Unmounts it under its users, who keep what they have open; its path leads elsewhere.
    pub fn vanish(&self) {
        run(Command::new("umount").arg("--lazy").arg(&self.mount_point));
    }

    /// Leaves no room.
    pub fn fill(&self) {
        let mut file = fs::File::create(self.mount_point.join("of-others")).unwrap();
        let zeros = vec![0; 64 << 10];
        loop {
            match file.write_all(&zeros).and_then(|()| file.sync_data()) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => return,
                Err(error) => panic!("filling {}: {error}", self.mount_point.display()),
            }
        }
    }

    /// Truncates the image under the mounted file system, and gives it its length back, so that the
    /// data of half of `files` reads as zeros. Returns how many that are, at least.
    pub fn cut_image(&self, files: &[PathBuf]) -> u64 {
        let mut starts: Vec<u64> = files.iter().map(|file| first_byte_on_device(file)).collect();
        starts.sort_unstable();
        let cut = starts[starts.len() / 2];
        let image = fs::OpenOptions::new().write(true).open(self.directory.path().join("image"));
        let image = image.unwrap();
        let len = image.metadata().unwrap().len();
        image.set_len(cut).unwrap();
        image.set_len(len).unwrap();
        starts.iter().filter(|start| **start >= cut).count() as u64
    }
}

impl Drop for LoopVolume {
    fn drop(&mut self) {
        if is_mount_point(&self.mount_point) {
            let _ = Command::new("umount").arg("--lazy").arg(&self.mount_point).status();
        }
    }
}

fn is_mount_point(path: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let path = path.display().to_string();
    mounts.lines().any(|line| line.split(' ').nth(1) == Some(&path))
}

/// Where the lowest of the file's extents lies.
fn first_byte_on_device(file: &Path) -> u64 {
    let listed = run(Command::new("filefrag").arg("-v").arg(file));
    let after = |text: &str, mark: &str| text.split(mark).nth(1).unwrap_or_default().to_owned();
    let block_bytes = after(&listed, "blocks of ");
    let block_bytes: u64 = block_bytes.split(' ').next().unwrap().parse().unwrap();
    // "ext: logical_offset: physical_offset: ...": "0: 0.. 255: 34816.. 35071: ..."
    let extents = listed.lines().filter(|line| line.contains("..") && line.contains(':'));
    let starts = extents
        .filter_map(|line| line.split(':').nth(2)?.split("..").next()?.trim().parse::<u64>().ok());
    starts.min().unwrap_or_else(|| panic!("no extents of {}: {listed}", file.display()))
        * block_bytes
}

/// What it says on standard output.
#[track_caller]
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} (root is needed): {}: {errors}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}
