//! Processor time that a process has used, user and system, all its threads, as the kernel counts
//! it in `/proc/PID/stat` (in ticks of 10 ms on Linux).

use std::path::PathBuf;
use std::time::Duration;

use crate::BenchError;

pub fn of_process(pid: u32) -> Result<Duration, BenchError> {
    let path = PathBuf::from(format!("/proc/{pid}/stat"));
    let stat = std::fs::read_to_string(&path).map_err(BenchError::file("read", &path))?;
    let ticks = user_and_system_ticks(&stat)
        .ok_or_else(|| BenchError::Process { path, why: format!("no utime, stime in {stat:?}") })?;
    let per_second = rustix::param::clock_ticks_per_second();
    Ok(Duration::from_secs_f64(ticks as f64 / per_second as f64))
}

/// Processor time of the calling thread.
pub fn of_this_thread() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Fields 14 and 15 of proc(5)'s stat. The second field, the command's name in parentheses, may
/// hold blanks and parentheses itself: the last `)` ends it.
fn user_and_system_ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    user.checked_add(system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_fields_behind_any_name() {
        let stat = "7 (a ) b) (c) S 1 7 7 0 -1 4194304 100 0 0 0 31 11 5 6 20 0 1 0 99";
        assert_eq!(user_and_system_ticks(stat), Some(42));
        assert_eq!(user_and_system_ticks("7 (x) S 1"), None);
        assert_eq!(user_and_system_ticks(""), None);
    }

    #[test]
    fn grows_with_work() {
        let pid = std::process::id();
        let (process, thread) = (of_process(pid).unwrap(), of_this_thread());
        let mut sum = 0_u64;
        while of_this_thread() < thread + Duration::from_millis(50) {
            sum = std::hint::black_box(sum + 1);
        }
        assert!(of_process(pid).unwrap() >= process + Duration::from_millis(30));
    }

    #[test]
    fn names_a_process_that_is_gone() {
        let error = of_process(u32::MAX).unwrap_err().to_string();
        assert!(error.contains("/proc/4294967295/stat"), "{error}");
    }
}
