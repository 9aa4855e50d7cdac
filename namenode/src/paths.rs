//! Paths as text: what a name may be, before anything is looked up.

use ringfs_protocol::limits::{PATH_MAX_CHARS, PATH_MAX_DEPTH};

use crate::config::NamespaceConfig;
use crate::error::{NamenodeError, Result};

pub const RESERVED: &str = ".reserved";
pub const RESERVED_INODES: &str = ".inodes";
pub const RESERVED_RAW: &str = "raw";
pub const SNAPSHOT: &str = ".snapshot";

/// The components of a path, empty ones dropped.
pub fn components(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|component| !component.is_empty())
}

pub fn join(components: &[String]) -> String {
    if components.is_empty() {
        return "/".to_owned();
    }
    components.iter().fold(String::new(), |path, component| path + "/" + component)
}

/// Refuses what is too long to be walked; `operation` begins the message.
pub fn check_length(operation: &str, path: &str) -> Result<()> {
    if path.chars().count() > PATH_MAX_CHARS || components(path).count() > PATH_MAX_DEPTH {
        return Err(NamenodeError::Io(format!(
            "{operation}: Pathname too long. Limit {PATH_MAX_CHARS} characters, \
             {PATH_MAX_DEPTH} levels."
        )));
    }
    Ok(())
}

/// Whether a new file or directory may have this path: absolute, no `.`, `..`, `:` or `//`.
pub fn is_valid_new_path(path: &str) -> bool {
    let Some(rest) = path.strip_prefix('/') else { return false };
    rest.is_empty()
        || rest.strip_suffix('/').unwrap_or(rest).split('/').all(|component| {
            !matches!(component, "" | "." | "..") && !component.contains([':', '\0'])
        })
}

/// Refuses the reserved directories themselves as the target of a change.
pub fn check_not_reserved(path: &str) -> Result<()> {
    let names: Vec<&str> = components(path).take(3).collect();
    let reserved = match names.as_slice() {
        [RESERVED] => true,
        [RESERVED, name] => matches!(*name, RESERVED_INODES | RESERVED_RAW),
        _ => false,
    };
    if reserved {
        return Err(NamenodeError::InvalidPath(format!(
            "Modification of {path} is not allowed: {path} is a reserved path"
        )));
    }
    Ok(())
}

/// Checks the name of a new inode below `parent_path`.
pub fn check_component(config: &NamespaceConfig, parent_path: &str, name: &str) -> Result<()> {
    if name == SNAPSHOT || (name == RESERVED && parent_path == "/") {
        return Err(NamenodeError::HadoopIllegalArgument(format!(
            "\"{name}\" is a reserved name: cannot create it in {parent_path}"
        )));
    }
    let limit = config.max_component_length;
    if limit > 0 && name.len() > limit {
        return Err(NamenodeError::PathComponentTooLong(format!(
            "The maximum path component name limit of {name} in directory {parent_path} is \
             exceeded: limit={limit} length={}",
            name.len()
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_paths_are_absolute_and_plain() {
        for valid in ["/", "/a", "/a/", "/a/.b/c d", "/\u{e9}/x..y"] {
            assert!(is_valid_new_path(valid), "{valid}");
        }
        for invalid in ["", "a", "/a//b", "//", "/./a", "/a/..", "/a:b", "/a/\0"] {
            assert!(!is_valid_new_path(invalid), "{invalid}");
        }
    }

    #[test]
    fn length_limits_name_themselves() {
        assert!(check_length("mkdirs", &"/a".repeat(1000)).is_ok());
        let deep = check_length("mkdirs", &"/a".repeat(1001)).unwrap_err().to_string();
        assert_eq!(deep, "mkdirs: Pathname too long. Limit 8000 characters, 1000 levels.");
        assert!(check_length("create", &format!("/{}", "x".repeat(8000))).is_err());
    }

    #[test]
    fn reserved_directories_are_refused_but_what_they_lead_to_is_not() {
        for reserved in ["/.reserved", "/.reserved/", "/.reserved/.inodes", "/.reserved/raw"] {
            assert!(check_not_reserved(reserved).is_err(), "{reserved}");
        }
        for allowed in ["/", "/.reserved/.inodes/5", "/.reserved/raw/x", "/a/.reserved"] {
            assert!(check_not_reserved(allowed).is_ok(), "{allowed}");
        }
    }

    #[test]
    fn component_limit_counts_bytes() {
        let config = NamespaceConfig::for_tests();
        assert!(check_component(&config, "/d", &"x".repeat(255)).is_ok());
        let long = check_component(&config, "/d", &"\u{e9}".repeat(128)).unwrap_err();
        assert!(matches!(long, NamenodeError::PathComponentTooLong(_)));
        assert!(check_component(&config, "/", ".reserved").is_err());
        assert!(check_component(&config, "/d", ".snapshot").is_err());
        assert!(check_component(&config, "/d", ".reserved").is_ok());
    }
}
