//! Hadoop's spelling of options: `-format`, `-conf FILE`, `-fs URI`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

/// Spells an option of one dash and several letters with two, as clap wants it. `-D name=value` and
/// `-Dname=value` are no such options. What follows `dfs` is left alone: file system commands have
/// words of their own.
pub fn with_double_dashes(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut rewritten = Vec::new();
    let mut verbatim = false;
    for (index, argument) in arguments.enumerate() {
        verbatim |= argument == "--" || (index == 1 && argument == "dfs");
        let bytes = argument.as_bytes();
        let long = bytes.len() > 2
            && bytes[0] == b'-'
            && bytes[1].is_ascii_alphabetic()
            && bytes[1] != b'D';
        if index > 0 && long && !verbatim {
            let mut double = OsString::from("-");
            double.push(argument);
            rewritten.push(double);
        } else {
            rewritten.push(argument);
        }
    }
    rewritten
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(line: &str) -> String {
        let words = with_double_dashes(line.split(' ').map(OsString::from));
        words.join(" ".as_ref()).into_string().unwrap()
    }

    #[test]
    fn single_dashes_of_hadoop() {
        assert_eq!(rewritten("ringfs namenode -format -force"), "ringfs namenode --format --force");
        assert_eq!(rewritten("ringfs datanode -conf /c -fs h"), "ringfs datanode --conf /c --fs h");
        assert_eq!(rewritten("ringfs -help"), "ringfs --help");
        assert_eq!(rewritten("ringfs -h -V"), "ringfs -h -V");
    }

    #[test]
    fn what_stays_as_it_is() {
        for line in [
            "-ringfs mini --port 1 -D a.b=c -Dd.e=f",
            "ringfs dfs -ls -R /",
            "ringfs demo -- -file",
            "ringfs mini -1x",
        ] {
            assert_eq!(rewritten(line), line);
        }
    }
}
