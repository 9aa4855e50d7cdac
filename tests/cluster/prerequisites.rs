//! What `tests/run` sets up: a Python environment with other people's clients in it, and with them
//! (in pyspark) the jars of Hadoop's. A JDK comes with the machine.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// Where `tests/run` keeps what it downloads.
fn home() -> PathBuf {
    match std::env::var_os("RINGFS_TESTS_HOME") {
        Some(home) => home.into(),
        None => {
            let home = std::env::var_os("HOME").expect("HOME is set");
            PathBuf::from(home).join(".cache/ringfs-tests")
        }
    }
}

/// The Python interpreter that has pyspark, snakebite-py3 and hdfs-native.
pub fn python() -> PathBuf {
    required(home().join("venv/bin/python"))
}

/// Jars of the Hadoop client and the logging that it wants, as a class path.
pub fn hadoop_class_path() -> String {
    let jars = std::fs::read_dir(home().join("venv/lib"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|python| python.path().join("site-packages/pyspark/jars"))
        .find(|jars| jars.is_dir())
        .unwrap_or_else(|| required(home().join("venv/lib/python3/site-packages/pyspark/jars")));
    let wanted =
        ["hadoop-client-api-", "hadoop-client-runtime-", "slf4j-api-", "log4j-", "jcl-over-slf4j-"];
    let mut class_path: Vec<String> = std::fs::read_dir(jars)
        .unwrap()
        .flatten()
        .filter(|jar| {
            let name = jar.file_name().to_string_lossy().into_owned();
            wanted.iter().any(|prefix| name.starts_with(prefix))
        })
        .map(|jar| jar.path().display().to_string())
        .collect();
    class_path.sort();
    assert!(class_path.len() >= wanted.len(), "jars missing, run tests/run: {class_path:?}");
    class_path.join(":")
}

/// Our driver of the Java client, compiled once a run.
pub fn java_shell_classes() -> PathBuf {
    static CLASSES: OnceLock<PathBuf> = OnceLock::new();
    CLASSES
        .get_or_init(|| {
            let classes = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("java");
            let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/java/Shell.java");
            let compiled = Command::new("javac")
                .args(["-nowarn", "-proc:none", "-cp", &hadoop_class_path(), "-d"])
                .args([&classes, &source])
                .output()
                .unwrap_or_else(|error| panic!("javac: {error}; a JDK is needed, run tests/run"));
            let errors = String::from_utf8_lossy(&compiled.stderr);
            assert!(compiled.status.success(), "javac: {errors}");
            classes
        })
        .clone()
}

fn required(path: PathBuf) -> PathBuf {
    assert!(path.exists(), "{} is missing: run tests/run, which sets it up", path.display());
    path
}
