//! The demo's table.

use std::io::{self, Write};

use ringfs_bench::Rate;

use super::gib;
use super::transfer::Transfer;

#[derive(Debug)]
pub struct Report {
    pub file_bytes: u64,
    pub warm_up_bytes: u64,
    pub blocks: usize,
    pub block_bytes: u64,
    /// Least number of replicas that a block has.
    pub replicas: usize,
    pub replication: u16,
    pub write: Transfer,
    pub read: Transfer,
    pub raw: Raw,
    /// Share of processor time that the hypervisor gave to others meanwhile.
    pub stolen: Option<f64>,
}

/// What the machine gives without ringfs.
#[derive(Debug)]
pub struct Raw {
    pub disk_write: Rate,
    pub disk_read: Rate,
    /// Whether the disk was measured with O_DIRECT.
    pub direct: bool,
    pub loopback: Rate,
}

impl Report {
    pub fn print(&self) -> io::Result<()> {
        let mut out = io::stdout().lock();
        self.write_to(&mut out)?;
        out.flush()
    }

    fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(
            out,
            "\n{:.2} GiB in {} blocks of {} MiB, {} replicas of each; read back equal, byte for byte\n",
            gib(self.file_bytes),
            self.blocks,
            self.block_bytes >> 20,
            self.replicas,
        )?;
        self.write_rates(out)?;
        writeln!(out)?;
        self.write_cpu(out)?;
        self.write_notes(out)
    }

    fn write_rates(&self, out: &mut impl Write) -> io::Result<()> {
        let (raw, replication) = (&self.raw, f64::from(self.replication));
        let write_limit = raw.disk_write.gb_per_s() / replication;
        let read_limit = raw.disk_read.gb_per_s();
        let loopback = raw.loopback.gb_per_s();
        writeln!(out, "{:24}{:>8}{:>14}{:>14}", "", "GB/s", "of the disk", "of loopback")?;
        for (what, rate, limit) in [
            ("write", self.write.rate.gb_per_s(), write_limit),
            ("read", self.read.rate.gb_per_s(), read_limit),
        ] {
            let (of_disk, of_loopback) = (100.0 * rate / limit, 100.0 * rate / loopback);
            writeln!(out, "{what:24}{rate:>8.2}{of_disk:>12.0} %{of_loopback:>12.0} %")?;
        }
        let disk_write = raw.disk_write.gb_per_s();
        writeln!(out, "{:24}{disk_write:>8.2}{:>12.0} %", "raw disk write", 100.0 * replication)?;
        writeln!(out, "{:24}{read_limit:>8.2}{:>12.0} %", "raw disk read", 100.0)?;
        writeln!(out, "{:24}{loopback:>8.2}{:>14}{:>12.0} %", "raw loopback, one hop", "", 100.0)
    }

    /// One column a process.
    fn write_cpu(&self, out: &mut impl Write) -> io::Result<()> {
        write!(out, "{:24}{:>8}{:>10}", "CPU-seconds per GiB", "client", "namenode")?;
        for index in 0..self.write.cpu.datanodes.len() {
            write!(out, "{:>11}", format!("datanode{index}"))?;
        }
        writeln!(out, "{:>8}", "sum")?;
        for (what, transfer) in [("write", &self.write), ("read", &self.read)] {
            let per_gib = |time: std::time::Duration| time.as_secs_f64() / gib(self.file_bytes);
            let cpu = &transfer.cpu;
            write!(out, "{what:24}{:>8.2}{:>10.2}", per_gib(cpu.client), per_gib(cpu.namenode))?;
            for datanode in &cpu.datanodes {
                write!(out, "{:>11.2}", per_gib(*datanode))?;
            }
            writeln!(out, "{:>8.2}", per_gib(cpu.sum()))?;
        }
        Ok(())
    }

    fn write_notes(&self, out: &mut impl Write) -> io::Result<()> {
        if self.replication > 1 {
            writeln!(
                out,
                "\nAll {} replicas go to one disk: the write's limit is 1/{} of the raw rate.",
                self.replication, self.replication
            )?;
        }
        writeln!(
            out,
            "{:.2} GiB were written and read before, to warm the processes up.\n\
             The source was in the page cache; comparing is not counted as CPU time.",
            gib(self.warm_up_bytes)
        )?;
        if !self.raw.direct {
            writeln!(out, "No O_DIRECT here: the raw disk was measured buffered, then synced.")?;
        }
        match self.stolen {
            Some(share) if share > 0.01 => {
                writeln!(out, "The hypervisor took {:.0} % of the time meanwhile.", 100.0 * share)
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::demo::transfer::CpuTimes;

    #[test]
    fn ratios_are_to_what_the_disk_can_give() {
        let rate = |millis| Rate { bytes: 1 << 30, elapsed: Duration::from_millis(millis) };
        let cpu = CpuTimes {
            client: Duration::from_millis(250),
            namenode: Duration::from_millis(10),
            datanodes: vec![Duration::from_millis(500); 2],
        };
        let report = Report {
            file_bytes: 1 << 30,
            warm_up_bytes: 1 << 28,
            blocks: 8,
            block_bytes: 128 << 20,
            replicas: 2,
            replication: 2,
            write: Transfer { rate: rate(2000), cpu: cpu.clone() },
            read: Transfer { rate: rate(1000), cpu },
            raw: Raw {
                disk_write: rate(500),
                disk_read: rate(500),
                direct: true,
                loopback: rate(100),
            },
            stolen: Some(0.05),
        };
        let mut table = Vec::new();
        report.write_to(&mut table).unwrap();
        let table = String::from_utf8(table).unwrap();
        let line = |start: &str| {
            let line = table.lines().find(|line| line.starts_with(start)).unwrap();
            line.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert!(table.contains("1.00 GiB in 8 blocks of 128 MiB, 2 replicas"), "{table}");
        assert_eq!(line("write "), "write 0.54 50 % 5 %");
        assert_eq!(line("read "), "read 1.07 50 % 10 %");
        assert_eq!(line("raw disk write"), "raw disk write 2.15 200 %");
        assert!(table.contains("0.25      0.01       0.50       0.50    1.26"), "{table}");
        assert!(table.contains("1/2 of the raw rate") && table.contains("took 5 %"), "{table}");
    }
}
