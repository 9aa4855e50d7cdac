//! Paths as people type them: absolute, relative to the home directory, or URIs.

/// The parts of `scheme://authority/path`; nothing is decoded, `?` and `#` mean themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathParts<'a> {
    pub scheme: Option<&'a str>,
    pub authority: Option<&'a str>,
    pub path: &'a str,
}

impl<'a> PathParts<'a> {
    pub fn split(text: &'a str) -> Self {
        let Some((scheme, rest)) = text.split_once(':').filter(|(scheme, rest)| {
            !scheme.is_empty() && !scheme.contains('/') && rest.starts_with('/')
        }) else {
            return Self { scheme: None, authority: None, path: text };
        };
        let Some(after) = rest.strip_prefix("//") else {
            return Self { scheme: Some(scheme), authority: None, path: rest };
        };
        let end = after.find('/').unwrap_or(after.len());
        let authority = Some(&after[..end]).filter(|authority| !authority.is_empty());
        Self { scheme: Some(scheme), authority, path: &after[end..] }
    }
}

/// `path` made absolute against `base`, with empty components, `.` and `..` resolved by text alone.
pub fn absolute(base: &str, path: &str) -> String {
    let mut components: Vec<&str> = Vec::new();
    let whole = if path.starts_with('/') { [path, ""] } else { [base, path] };
    for component in whole.iter().flat_map(|part| part.split('/')) {
        match component {
            "" | "." => {}
            ".." => {
                components.pop();
            }
            other => components.push(other),
        }
    }
    format!("/{}", components.join("/"))
}

/// Parent of an absolute path; the root has none.
pub fn parent(path: &str) -> Option<&str> {
    match path.rfind('/')? {
        _ if path == "/" => None,
        0 => Some("/"),
        end => Some(&path[..end]),
    }
}

/// Last component of an absolute path, empty for the root.
pub fn name(path: &str) -> &str {
    &path[path.rfind('/').map_or(0, |slash| slash + 1)..]
}

/// `directory/child`, also below the root.
pub fn join(directory: &str, child: &str) -> String {
    if directory.ends_with('/') {
        format!("{directory}{child}")
    } else {
        format!("{directory}/{child}")
    }
}

/// Whether `path` is `ancestor` or below it.
pub fn is_within(path: &str, ancestor: &str) -> bool {
    path.strip_prefix(ancestor)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || ancestor.ends_with('/'))
}

/// `path` as seen from the directory `base`: `.` for itself, `../x` beside it.
pub fn relative(base: &str, path: &str) -> String {
    if base == path {
        return ".".to_owned();
    }
    let components = |path: &str| -> Vec<String> {
        path.split('/').filter(|component| !component.is_empty()).map(str::to_owned).collect()
    };
    let (base, path) = (components(base), components(path));
    let common = base.iter().zip(&path).take_while(|(a, b)| a == b).count();
    let mut parts = vec!["..".to_owned(); base.len() - common];
    parts.extend_from_slice(&path[common..]);
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitting() {
        let parts = |text| {
            let PathParts { scheme, authority, path } = PathParts::split(text);
            (scheme, authority, path)
        };
        assert_eq!(parts("/a/b"), (None, None, "/a/b"));
        assert_eq!(parts("a:b/c"), (None, None, "a:b/c"));
        assert_eq!(parts("x/a:/b"), (None, None, "x/a:/b"));
        assert_eq!(parts("hdfs://h:1/a"), (Some("hdfs"), Some("h:1"), "/a"));
        assert_eq!(parts("hdfs://h:1"), (Some("hdfs"), Some("h:1"), ""));
        assert_eq!(parts("hdfs:///a"), (Some("hdfs"), None, "/a"));
        assert_eq!(parts("file:/a b#c"), (Some("file"), None, "/a b#c"));
    }

    #[test]
    fn making_absolute() {
        assert_eq!(absolute("/user/u", "x/./y/../z"), "/user/u/x/z");
        assert_eq!(absolute("/user/u", "/a//b/"), "/a/b");
        assert_eq!(absolute("/user/u", ""), "/user/u");
        assert_eq!(absolute("/user/u", "../../../.."), "/");
    }

    #[test]
    fn relations() {
        assert_eq!(parent("/a/b"), Some("/a"));
        assert_eq!(parent("/a"), Some("/"));
        assert_eq!(parent("/"), None);
        assert_eq!((name("/a/b"), name("/")), ("b", ""));
        assert_eq!((join("/", "a"), join("/a", "b")), ("/a".to_owned(), "/a/b".to_owned()));
        assert!(is_within("/a/b", "/a") && is_within("/a", "/a") && is_within("/a", "/"));
        assert!(!is_within("/ab", "/a") && !is_within("/a", "/a/b"));
        assert_eq!(relative("/user/u", "/user/u"), ".");
        assert_eq!(relative("/user/u", "/user/u/x/y"), "x/y");
        assert_eq!(relative("/user/u", "/user/v"), "../v");
        assert_eq!(relative("/user/u", "/tmp"), "../../tmp");
    }
}
