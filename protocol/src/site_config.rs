//! `core-site.xml` and `hdfs-site.xml`: the same files, names and rules as Hadoop's Configuration.
//!
//! Properties are kept under their current names, whatever deprecated name a file used. `${name}`
//! in a value stands for `env.NAME`, `user.name` and the like, another property or its default.

use std::collections::HashMap;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use crate::limits::{CONFIG_FILE_MAX_BYTES, CONFIG_SUBSTITUTIONS_MAX};
use crate::messages::StorageTypeProto;
use crate::settings::{self, Kind, Setting};

#[derive(Debug, Error)]
pub enum ConfigError {
    #[error("{path}: {source}")]
    Read { path: String, source: std::io::Error },
    #[error("{path}:{line}: {why}")]
    Xml { path: String, line: u32, why: String },
    #[error("{name} = {value:?}: {why}")]
    Value { name: String, value: String, why: String },
}

/// Properties by name, later files over earlier ones except where `<final>` forbids it, `-D` last
/// over everything that is not final.
#[derive(Clone, Debug, Default)]
pub struct Configuration {
    properties: HashMap<String, Property>,
}

/// A directory of `dfs.datanode.data.dir`: `[SSD]file:///path`, `file:///path` or `/path`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageDirectory {
    pub storage_type: StorageTypeProto,
    pub path: PathBuf,
}

#[derive(Clone, Debug)]
struct Property {
    value: String,
    is_final: bool,
    /// `file:line`, or `-D`, for messages.
    origin: String,
}

impl Configuration {
    /// Reads `core-site.xml` and `hdfs-site.xml` in `conf_dir` when they exist, then applies
    /// `overrides`. `conf_dir` is `HADOOP_CONF_DIR` unless a command says otherwise.
    pub fn load(
        conf_dir: Option<&Path>,
        overrides: &[(String, String)],
    ) -> Result<Self, ConfigError> {
        let mut configuration = Self::default();
        for file in ["core-site.xml", "hdfs-site.xml"] {
            let Some(path) = conf_dir.map(|dir| dir.join(file)) else {
                continue;
            };
            let path_text = path.display().to_string();
            match read_bounded(&path) {
                Ok(text) => configuration.add_xml(&path_text, &text)?,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(source) => return Err(ConfigError::Read { path: path_text, source }),
            }
        }
        for (name, value) in overrides {
            configuration.set(name, value);
        }
        Ok(configuration)
    }

    /// Adds the properties of one more file, which must exist.
    pub fn load_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let path_text = path.display().to_string();
        match read_bounded(path) {
            Ok(text) => self.add_xml(&path_text, &text),
            Err(source) => Err(ConfigError::Read { path: path_text, source }),
        }
    }

    /// Sets a property as `-D` does: a final one keeps its value.
    pub fn set(&mut self, name: &str, value: &str) {
        self.put(name, value, false, "-D".to_owned());
    }

    /// The value with `${var}` expanded (20 levels at most), `None` when unset.
    pub fn get(&self, name: &str) -> Option<String> {
        self.properties.get(current_name(name)).map(|property| self.expand(&property.value))
    }

    /// The value of `setting`, trimmed, or its default.
    pub fn text(&self, setting: &Setting) -> String {
        let value = self.get(setting.name).unwrap_or_else(|| self.expand(setting.default));
        value.trim().to_owned()
    }

    /// Comma-separated values, trimmed, empty ones dropped.
    pub fn list(&self, setting: &Setting) -> Vec<String> {
        let text = self.text(setting);
        text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
    }

    pub fn bytes(&self, setting: &Setting) -> Result<u64, ConfigError> {
        self.parse(setting, parse_bytes)
    }

    pub fn integer(&self, setting: &Setting) -> Result<i64, ConfigError> {
        self.parse(setting, parse_integer)
    }

    pub fn float(&self, setting: &Setting) -> Result<f64, ConfigError> {
        self.parse(setting, |text| {
            // Java's literals may end in their type.
            let digits = text.trim_end_matches(['f', 'F', 'd', 'D']);
            let number = digits.parse::<f64>().ok().filter(|number| number.is_finite());
            number.ok_or_else(|| "not a number".to_owned())
        })
    }

    pub fn boolean(&self, setting: &Setting) -> Result<bool, ConfigError> {
        self.parse(setting, |text| match text.to_ascii_lowercase().as_str() {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err("neither true nor false".to_owned()),
        })
    }

    pub fn duration(&self, setting: &Setting) -> Result<Duration, ConfigError> {
        let unit = if setting.kind == Kind::Seconds { "s" } else { "ms" };
        self.parse(setting, |text| parse_duration(text, unit))
    }

    /// The directories of a setting such as `dfs.datanode.data.dir`.
    pub fn directories(&self, setting: &Setting) -> Result<Vec<StorageDirectory>, ConfigError> {
        let entries = self.list(setting);
        entries
            .iter()
            .map(|entry| parse_directory(entry).map_err(|why| self.refuse(setting, entry, why)))
            .collect()
    }

    /// The error of a value that is well formed but not possible: what it is, where it was set.
    pub fn refuse(&self, setting: &Setting, value: &str, why: impl Display) -> ConfigError {
        let why = match self.properties.get(setting.name) {
            Some(property) => format!("{why} (set by {})", property.origin),
            None => why.to_string(),
        };
        ConfigError::Value { name: setting.name.to_owned(), value: value.to_owned(), why }
    }

    fn parse<T>(
        &self,
        setting: &Setting,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<T, ConfigError> {
        let text = self.text(setting);
        parse(&text).map_err(|why| self.refuse(setting, &text, why))
    }

    fn put(&mut self, name: &str, value: &str, is_final: bool, origin: String) {
        let name = current_name(name.trim());
        if self.properties.get(name).is_some_and(|property| property.is_final) {
            tracing::warn!("{origin}: {name} is final, another value is ignored");
            return;
        }
        let property = Property { value: value.to_owned(), is_final, origin };
        self.properties.insert(name.to_owned(), property);
    }

    fn add_xml(&mut self, path: &str, text: &str) -> Result<(), ConfigError> {
        let error = |line, why: String| ConfigError::Xml { path: path.to_owned(), line, why };
        let document = roxmltree::Document::parse(text)
            .map_err(|parse_error| error(parse_error.pos().row, parse_error.to_string()))?;
        let line_of = |node: roxmltree::Node| document.text_pos_at(node.range().start).row;
        let root = document.root_element();
        if !root.has_tag_name("configuration") {
            let why = format!("<configuration> expected, found <{}>", root.tag_name().name());
            return Err(error(line_of(root), why));
        }
        for node in root.descendants().filter(roxmltree::Node::is_element) {
            if node.tag_name().name() == "include" {
                let why = "XInclude is not read: put the included properties into this file";
                return Err(error(line_of(node), why.to_owned()));
            }
            if !node.has_tag_name("property") {
                continue;
            }
            let line = line_of(node);
            let Some(name) = field(node, "name").filter(|name| !name.trim().is_empty()) else {
                return Err(error(line, "a <property> without <name>".to_owned()));
            };
            let Some(value) = field(node, "value") else {
                continue; // A name alone sets nothing, as in Hadoop.
            };
            let is_final = field(node, "final").is_some_and(|text| text.trim() == "true");
            self.put(&name, &value, is_final, format!("{path}:{line}"));
        }
        Ok(())
    }

    /// Expands variables from the left, [`CONFIG_SUBSTITUTIONS_MAX`] in all, so that neither a cycle
    /// nor a value that doubles itself goes on; what cannot be resolved stays as it is written.
    fn expand(&self, value: &str) -> String {
        let mut text = value.to_owned();
        let mut from = 0;
        for _ in 0..CONFIG_SUBSTITUTIONS_MAX {
            let Some((start, end)) = find_variable(&text, from) else {
                break;
            };
            match self.variable(&text[start + 2..end]) {
                Some(replacement) => {
                    text.replace_range(start..=end, &replacement);
                    from = start;
                }
                None => from = end + 1,
            }
        }
        text
    }

    fn variable(&self, name: &str) -> Option<String> {
        if let Some(variable) = name.strip_prefix("env.") {
            return std::env::var(variable).ok();
        }
        let system = match name {
            "user.name" => Some(user_name()),
            "user.home" => std::env::var("HOME").ok(),
            "user.dir" => std::env::current_dir().ok().map(|dir| dir.display().to_string()),
            "java.io.tmpdir" => Some(std::env::temp_dir().display().to_string()),
            _ => None,
        };
        let name = current_name(name);
        system
            .or_else(|| self.properties.get(name).map(|property| property.value.clone()))
            .or_else(|| setting_named(name).map(|setting| setting.default.to_owned()))
    }
}

/// The user that acts: `HADOOP_USER_NAME`, else the login's name.
pub fn user_name() -> String {
    ["HADOOP_USER_NAME", "USER", "LOGNAME"]
        .into_iter()
        .find_map(|variable| std::env::var(variable).ok().filter(|name| !name.is_empty()))
        .unwrap_or_else(|| "root".to_owned())
}

/// The name under which a property is kept: a deprecated name leads to the current one.
fn current_name(name: &str) -> &str {
    setting_named(name).map_or(name, |setting| setting.name)
}

fn setting_named(name: &str) -> Option<&'static Setting> {
    settings::ALL
        .iter()
        .find(|setting| setting.name == name || setting.deprecated_names.contains(&name))
}

/// A property's part, as a child element or as an attribute.
fn field(property: roxmltree::Node, name: &str) -> Option<String> {
    match property.children().find(|child| child.has_tag_name(name)) {
        Some(child) => {
            let text = child.children().filter(roxmltree::Node::is_text);
            Some(text.filter_map(|node| node.text()).collect())
        }
        None => property.attribute(name).map(str::to_owned),
    }
}

/// The first `${name}` at or after `from`: where it starts and where its brace closes.
fn find_variable(text: &str, from: usize) -> Option<(usize, usize)> {
    let mut at = from;
    loop {
        let start = at + text[at..].find("${")?;
        let name = &text[start + 2..];
        let len = name.find(['}', '$', ' '])?;
        if len > 0 && name.as_bytes()[len] == b'}' {
            return Some((start, start + 2 + len));
        }
        at = start + 2;
    }
}

fn parse_integer(text: &str) -> Result<i64, String> {
    let (sign, digits) = text.strip_prefix('-').map_or((1, text), |digits| (-1, digits));
    let magnitude = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(hexadecimal) => i64::from_str_radix(hexadecimal, 16),
        None => digits.parse(),
    };
    magnitude.map(|magnitude| sign * magnitude).map_err(|_| "not an integer".to_owned())
}

/// A size as Hadoop writes it: `4096`, `10k`, `64m`.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let why = || "not a size in bytes: a number, or one with k, m, g, t, p or e".to_owned();
    let last = text.chars().last().ok_or_else(why)?.to_ascii_lowercase();
    let (digits, shift) = match "kmgtpe".find(last) {
        Some(power) => (&text[..text.len() - 1], 10 * (power + 1)),
        None => (text, 0),
    };
    let number = digits.trim().parse::<u64>().map_err(|_| why())?;
    number.checked_mul(1 << shift).ok_or_else(|| "more than 64 bits of bytes".to_owned())
}

fn parse_duration(text: &str, default_unit: &str) -> Result<Duration, String> {
    let why = || "not a time: a number, or one with ms, s, m, h or d".to_owned();
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number = text[..split].parse::<u64>().map_err(|_| why())?;
    let unit = text[split..].trim().to_ascii_lowercase();
    let seconds = |unit_seconds: u64| {
        let seconds = number.checked_mul(unit_seconds);
        seconds.map(Duration::from_secs).ok_or_else(|| "longer than 64 bits of seconds".to_owned())
    };
    match if unit.is_empty() { default_unit } else { &unit } {
        "ns" => Ok(Duration::from_nanos(number)),
        "us" => Ok(Duration::from_micros(number)),
        "ms" => Ok(Duration::from_millis(number)),
        "s" => seconds(1),
        "m" => seconds(60),
        "h" => seconds(60 * 60),
        "d" => seconds(24 * 60 * 60),
        _ => Err(why()),
    }
}

fn parse_directory(entry: &str) -> Result<StorageDirectory, String> {
    let (label, uri) = match entry.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((label, uri)) => (label.to_ascii_uppercase(), uri.trim()),
        None => ("DISK".to_owned(), entry),
    };
    let storage_type = match label.as_str() {
        "DISK" => StorageTypeProto::Disk,
        "SSD" => StorageTypeProto::Ssd,
        "ARCHIVE" => StorageTypeProto::Archive,
        _ => return Err(format!("storage type {label} is not one of DISK, SSD, ARCHIVE")),
    };
    let path = uri.strip_prefix("file://").or_else(|| uri.strip_prefix("file:")).unwrap_or(uri);
    if !path.starts_with('/') {
        return Err("not an absolute path or a file:/// URI".to_owned());
    }
    Ok(StorageDirectory { storage_type, path: PathBuf::from(path) })
}

fn read_bounded(path: &Path) -> std::io::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    let limit = CONFIG_FILE_MAX_BYTES;
    std::fs::File::open(path)?.take(limit + 1).read_to_string(&mut text)?;
    if text.len() as u64 > limit {
        let why = format!("longer than {limit} bytes");
        return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, why));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::settings::*;

    fn from_xml(body: &str) -> Configuration {
        let mut configuration = Configuration::default();
        let text = format!("<?xml version=\"1.0\"?>\n<configuration>\n{body}</configuration>");
        configuration.add_xml("site.xml", &text).unwrap();
        configuration
    }

    fn property(name: &str, value: &str) -> String {
        format!("<property><name>{name}</name><value>{value}</value></property>\n")
    }

    fn with(setting: &Setting, value: &str) -> Configuration {
        let mut configuration = Configuration::default();
        configuration.set(setting.name, value);
        configuration
    }

    #[test]
    fn files_override_each_other_but_not_what_is_final() {
        let dir = tempfile::tempdir().unwrap();
        let write = |file: &str, body: String| {
            let text = format!("<configuration>{body}</configuration>");
            std::fs::write(dir.path().join(file), text).unwrap();
        };
        let pinned = "<property><name>dfs.replication</name><value>2</value><final>true</final>\
                      </property>";
        write("core-site.xml", pinned.to_owned() + &property("dfs.ls.limit", "1"));
        write("hdfs-site.xml", property("dfs.replication", "5") + &property("dfs.ls.limit", "2"));
        let overrides =
            [("dfs.replication".into(), "7".into()), ("fs.defaultFS".into(), "hdfs://a:1".into())];
        let configuration = Configuration::load(Some(dir.path()), &overrides).unwrap();
        assert_eq!(configuration.integer(&DFS_REPLICATION).unwrap(), 2);
        assert_eq!(configuration.integer(&DFS_LS_LIMIT).unwrap(), 2);
        assert_eq!(configuration.text(&FS_DEFAULT_FS), "hdfs://a:1");
        assert_eq!(configuration.integer(&DFS_REPLICATION_MAX).unwrap(), 512);
        assert_eq!(configuration.get("dfs.replication.max"), None);
    }

    #[test]
    fn missing_files_are_no_error_and_damaged_ones_say_where() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Configuration::load(Some(dir.path()), &[]).is_ok());
        assert!(Configuration::load(None, &[]).is_ok());
        let path = dir.path().join("core-site.xml");
        std::fs::write(&path, "<configuration>\n<property>\n</configuration>").unwrap();
        let error = Configuration::load(Some(dir.path()), &[]).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{}:3: ", path.display())), "{error}");
    }

    #[test]
    fn what_cannot_be_read_right_is_refused_with_its_line() {
        let cases = [
            ("<site/>", "site.xml:1: <configuration> expected, found <site>"),
            (
                "<configuration>\n<property><value>1</value></property></configuration>",
                "site.xml:2: a <property> without <name>",
            ),
            (
                "<configuration xmlns:xi='http://www.w3.org/2001/XInclude'>\n\n<xi:include href='a'/>\
                 </configuration>",
                "site.xml:3: XInclude is not read: put the included properties into this file",
            ),
        ];
        for (text, message) in cases {
            let error = Configuration::default().add_xml("site.xml", text).unwrap_err();
            assert_eq!(error.to_string(), message);
        }
        let bomb = "<!DOCTYPE a [<!ENTITY b 'b'>]><configuration>&b;</configuration>";
        assert!(Configuration::default().add_xml("site.xml", bomb).is_err());
        let deep = format!("<configuration>{}", "<a>".repeat(100_000));
        assert!(Configuration::default().add_xml("site.xml", &deep).is_err());
    }

    #[test]
    fn a_wrong_value_names_its_origin() {
        let configuration = from_xml(&property("dfs.blocksize", "12q"));
        let error = configuration.bytes(&DFS_BLOCK_SIZE).unwrap_err().to_string();
        let expected = "dfs.blocksize = \"12q\": not a size in bytes: a number, or one with k, m, g, \
                        t, p or e (set by site.xml:3)";
        assert_eq!(error, expected);
    }

    #[test]
    fn deprecated_names_attributes_comments_and_cdata_are_understood() {
        let configuration = from_xml(
            "<property name='dfs.block.size' value='1m'/>\n\
             <property><name> dfs.data.dir </name><value><![CDATA[/a]]><!-- x -->,/b</value></property>\n\
             <property><name>dfs.ls.limit</name></property>",
        );
        assert_eq!(configuration.bytes(&DFS_BLOCK_SIZE).unwrap(), 1 << 20);
        assert_eq!(configuration.get("dfs.block.size"), Some("1m".into()));
        assert_eq!(configuration.list(&DFS_DATANODE_DATA_DIR), ["/a", "/b"]);
        assert_eq!(configuration.integer(&DFS_LS_LIMIT).unwrap(), 1000);
    }

    #[test]
    fn variables_are_expanded_and_cycles_end() {
        let mut configuration = from_xml(
            &(property("base", "/data/${name}")
                + &property("name", "x")
                + &property("hadoop.tmp.dir", "${base}/tmp")
                + &property("a", "${b}")
                + &property("b", "${a}")
                + &property("unknown", "${no.such} ${ spaced} ${} ${name}")),
        );
        assert_eq!(configuration.text(&DFS_NAMENODE_NAME_DIR), "file:///data/x/tmp/dfs/name");
        assert_eq!(configuration.get("a"), Some("${b}".into()));
        assert_eq!(configuration.get("unknown"), Some("${no.such} ${ spaced} ${} x".into()));
        configuration.set("path", "${env.PATH}");
        assert_eq!(configuration.get("path"), std::env::var("PATH").ok());
        configuration.set("twice", "${twice}${twice}");
        assert!(configuration.get("twice").unwrap().len() < 1000);
    }

    #[test]
    fn numbers_take_hadoops_suffixes() {
        for (text, bytes) in [("128m", 128 << 20), ("1G", 1 << 30), ("7", 7), ("2 k", 2048)] {
            assert_eq!(with(&DFS_BLOCK_SIZE, text).bytes(&DFS_BLOCK_SIZE).unwrap(), bytes);
        }
        for text in ["", "m", "-1", "1.5m", "1mb", "16e", "99999999999999999999"] {
            assert!(with(&DFS_BLOCK_SIZE, text).bytes(&DFS_BLOCK_SIZE).is_err(), "{text}");
        }
        let seconds = &DFS_HEARTBEAT_INTERVAL;
        for (text, millis) in [("3", 3000), ("500ms", 500), ("2m", 120_000), ("1H", 3_600_000)] {
            let duration = with(seconds, text).duration(seconds).unwrap();
            assert_eq!(duration, Duration::from_millis(millis), "{text}");
        }
        let millis = &DFS_CLIENT_SOCKET_TIMEOUT;
        assert_eq!(with(millis, "40").duration(millis).unwrap(), Duration::from_millis(40));
        for text in ["", "s", "-1", "1.5s", "1w", "999999999999999999d"] {
            assert!(with(millis, text).duration(millis).is_err(), "{text}");
        }
        assert_eq!(with(&DFS_LS_LIMIT, "0x10").integer(&DFS_LS_LIMIT).unwrap(), 16);
        assert_eq!(with(&DFS_LS_LIMIT, "-5").integer(&DFS_LS_LIMIT).unwrap(), -5);
        let threshold = &DFS_NAMENODE_SAFEMODE_THRESHOLD_PCT;
        assert_eq!(with(threshold, "0.999f").float(threshold).unwrap(), 0.999);
        assert!(with(threshold, "NaN").float(threshold).is_err());
        let enabled = &DFS_PERMISSIONS_ENABLED;
        assert!(!with(enabled, " False ").boolean(enabled).unwrap());
        assert!(with(enabled, "no").boolean(enabled).is_err());
    }

    #[test]
    fn data_directories_are_uris_or_paths_with_a_storage_type() {
        let setting = &DFS_DATANODE_DATA_DIR;
        let directories =
            with(setting, "/a, [ssd]file:///b ,file:/c").directories(setting).unwrap();
        let directory =
            |storage_type, path: &str| StorageDirectory { storage_type, path: path.into() };
        assert_eq!(
            directories,
            [
                directory(StorageTypeProto::Disk, "/a"),
                directory(StorageTypeProto::Ssd, "/b"),
                directory(StorageTypeProto::Disk, "/c"),
            ]
        );
        for refused in ["relative", "[RAM_DISK]/a", "hdfs://a/b"] {
            assert!(with(setting, refused).directories(setting).is_err(), "{refused}");
        }
    }

    proptest! {
        #[test]
        fn any_file_is_a_configuration_or_an_error(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            parts in proptest::collection::vec(prop::sample::select(vec![
                "<configuration>", "</configuration>", "<property>", "</property>", "<name>",
                "</name>", "<value>", "</value>", "<final>", "</final>", "<!--", "-->", "&amp;",
                "&#0;", "<![CDATA[", "]]>", "a", "${a}", "\u{e9}", " ",
            ]), 0..40),
        ) {
            let mut configuration = Configuration::default();
            let _ = configuration.add_xml("site.xml", &String::from_utf8_lossy(&bytes));
            let _ = configuration.add_xml("site.xml", &parts.concat());
            let body = format!("<configuration>{}</configuration>", parts.concat());
            let _ = configuration.add_xml("site.xml", &body);
            let _ = configuration.get("a");
        }

        #[test]
        fn any_value_is_read_or_refused(value in "([0-9a-zA-Z ${}.\\-\\[\\]/:\u{e9}]|\\$\\{a\\}){0,20}") {
            let mut configuration = Configuration::default();
            configuration.set("a", &value);
            prop_assert!(configuration.get("a").is_some());
            for setting in ALL {
                configuration.set(setting.name, &value);
                let _ = configuration.bytes(setting);
                let _ = configuration.integer(setting);
                let _ = configuration.float(setting);
                let _ = configuration.duration(setting);
                let _ = configuration.directories(setting);
            }
        }

        #[test]
        fn properties_survive_xml(name in "[a-z.]{1,20}", value in "[ -~]{0,40}") {
            let escaped = value.replace('&', "&amp;").replace('<', "&lt;");
            let configuration = from_xml(&property(&name, &escaped));
            let stored = &configuration.properties[current_name(&name)].value;
            prop_assert_eq!(stored, &value);
        }
    }
}
