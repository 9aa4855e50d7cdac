//! The options before the command: `-D name=value`, `-fs URI`, `-conf FILE`.

use std::path::{Path, PathBuf};

use ringfs_protocol::settings;
use ringfs_protocol::site_config::Configuration;

use super::error::ShellError;

#[derive(Debug, Default, PartialEq, Eq)]
pub struct GenericOptions {
    /// Settings in the order given; a later one of the same name wins.
    pub properties: Vec<(String, String)>,
    /// Further files in the format of `core-site.xml`.
    pub files: Vec<PathBuf>,
}

impl GenericOptions {
    /// Takes the generic options from the front of `words`.
    pub fn take(words: &mut Vec<String>) -> Result<Self, ShellError> {
        let mut options = Self::default();
        let mut rest = std::mem::take(words).into_iter();
        while let Some(word) = rest.next() {
            let value_of = |rest: &mut std::vec::IntoIter<String>| {
                rest.next().ok_or_else(|| {
                    ShellError::Usage(format!("Missing argument for option: {word}"))
                })
            };
            match word.as_str() {
                "-fs" | "--fs" => {
                    let uri = value_of(&mut rest)?;
                    options.properties.push((settings::FS_DEFAULT_FS.name.to_owned(), uri));
                }
                "-conf" | "--conf" => options.files.push(value_of(&mut rest)?.into()),
                "-D" => {
                    let property = value_of(&mut rest)?;
                    options.properties.push(split_property(&property));
                }
                _ if word.starts_with("-D") && word.contains('=') => {
                    options.properties.push(split_property(&word[2..]));
                }
                _ => {
                    words.push(word);
                    words.extend(rest);
                    break;
                }
            }
        }
        Ok(options)
    }

    /// The configuration of `conf_dir`, then the files and properties over it.
    pub fn configuration(&self, conf_dir: Option<&Path>) -> Result<Configuration, ShellError> {
        let explain = |error: ringfs_protocol::site_config::ConfigError| {
            ShellError::Message(error.to_string())
        };
        let mut configuration = Configuration::load(conf_dir, &[]).map_err(explain)?;
        for file in &self.files {
            configuration.load_file(file).map_err(explain)?;
        }
        for (name, value) in &self.properties {
            configuration.set(name, value);
        }
        Ok(configuration)
    }
}

/// `name=value`; a name alone is set to nothing, as Hadoop does.
fn split_property(text: &str) -> (String, String) {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    (name.trim().to_owned(), value.to_owned())
}

pub fn usage_lines() -> Vec<String> {
    [
        "Generic options supported are:",
        "-conf <configuration file>        read settings from that file too",
        "-D <property=value>               set one property",
        "-fs <file:///|hdfs://namenode:port> the file system of paths without one, instead of 'fs.defaultFS'",
        "",
        "The general command line syntax is:",
        "command [genericOptions] [commandOptions]",
        "",
    ]
    .map(str::to_owned)
    .to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(words: &[&str]) -> (GenericOptions, Vec<String>) {
        let mut words = words.iter().map(|word| (*word).to_owned()).collect();
        (GenericOptions::take(&mut words).unwrap(), words)
    }

    #[test]
    fn only_before_the_command() {
        let (options, rest) = take(&[
            "-D",
            "a=b=c",
            "-Dx=1",
            "-fs",
            "hdfs://h:1",
            "-conf",
            "f.xml",
            "-ls",
            "-D",
            "y=2",
        ]);
        let expected = [("a", "b=c"), ("x", "1"), ("fs.defaultFS", "hdfs://h:1")];
        assert_eq!(
            options.properties,
            expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
        assert_eq!(options.files, [PathBuf::from("f.xml")]);
        assert_eq!(rest, ["-ls", "-D", "y=2"]);
    }

    #[test]
    fn a_missing_value_is_named() {
        let mut words = vec!["-fs".to_owned()];
        let error = GenericOptions::take(&mut words).unwrap_err();
        assert_eq!(error.to_string(), "Missing argument for option: -fs");
    }
}
