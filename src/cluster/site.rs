//! `core-site.xml` and `hdfs-site.xml` of a cluster: any Hadoop client can be pointed at them.

use std::fmt::Write;
use std::path::Path;

use ringfs_protocol::settings;
use ringfs_protocol::site_config::Configuration;

use super::ClusterError;

/// Later settings of one name replace earlier ones. `fs.*`, `hadoop.*`, `io.*` and `ipc.*` belong
/// to core-site.xml, everything else to hdfs-site.xml.
pub fn write(conf_dir: &Path, settings: &[(String, String)]) -> Result<(), ClusterError> {
    let of_core = |name: &str| {
        ["fs.", "hadoop.", "io.", "ipc."].iter().any(|prefix| name.starts_with(prefix))
    };
    for (file, core) in [("core-site.xml", true), ("hdfs-site.xml", false)] {
        let mut properties = String::new();
        for (index, (name, value)) in settings.iter().enumerate() {
            let replaced = settings[index + 1..].iter().any(|(later, _)| later == name);
            if of_core(name) == core && !replaced {
                let (name, value) = (escape(name), escape(value));
                writeln!(
                    properties,
                    "  <property><name>{name}</name><value>{value}</value></property>"
                )
                .expect("writing to a String cannot fail");
            }
        }
        let path = conf_dir.join(file);
        let text =
            format!("<?xml version=\"1.0\"?>\n<configuration>\n{properties}</configuration>\n");
        std::fs::write(&path, text).map_err(ClusterError::file("write", &path))?;
    }
    Ok(())
}

/// The namenode's port of the last time that this directory was served.
pub fn last_port(directory: &Path) -> Option<u16> {
    let configuration = Configuration::load(Some(&directory.join("conf")), &[]).ok()?;
    let uri = configuration.get(settings::FS_DEFAULT_FS.name)?;
    uri.rsplit_once(':')?.1.parse().ok()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_reads_back_what_was_written() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(last_port(directory.path()), None);
        let conf = directory.path().join("conf");
        std::fs::create_dir(&conf).unwrap();
        let settings = [
            ("fs.defaultFS", "hdfs://127.0.0.1:20555"),
            ("dfs.replication", "3"),
            ("dfs.blocksize", "1m"),
            ("dfs.replication", "2"),
            ("ringfs.odd", "a<b>&c"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
        write(&conf, &settings).unwrap();
        let read = Configuration::load(Some(&conf), &[]).unwrap();
        assert_eq!(read.get("dfs.replication").as_deref(), Some("2"));
        assert_eq!(read.get("ringfs.odd").as_deref(), Some("a<b>&c"));
        assert_eq!(last_port(directory.path()), Some(20555));
        let core = std::fs::read_to_string(conf.join("core-site.xml")).unwrap();
        assert!(core.contains("fs.defaultFS") && !core.contains("dfs."), "{core}");
    }
}
