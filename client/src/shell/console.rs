//! Standard output and standard error of a command.
//!
//! Output is buffered and flushed before anything goes to standard error, so that both appear in the
//! order they happened. A reader that goes away ends the command quietly, as with any Unix tool.

use std::io::{self, BufWriter, Write};

use super::error::ShellError;

const OUTPUT_BUFFER_BYTES: usize = 64 << 10;

pub struct Console {
    output: BufWriter<Box<dyn Write>>,
    errors: Box<dyn Write>,
}

impl Console {
    pub fn new(output: Box<dyn Write>, errors: Box<dyn Write>) -> Self {
        Self { output: BufWriter::with_capacity(OUTPUT_BUFFER_BYTES, output), errors }
    }

    pub fn standard() -> Self {
        Self::new(Box::new(io::stdout()), Box::new(io::stderr()))
    }

    pub fn line(&mut self, text: &str) -> Result<(), ShellError> {
        self.bytes(text.as_bytes())?;
        self.bytes(b"\n")
    }

    pub fn bytes(&mut self, data: &[u8]) -> Result<(), ShellError> {
        self.output.write_all(data).map_err(ShellError::Output)
    }

    pub fn flush(&mut self) -> Result<(), ShellError> {
        self.output.flush().map_err(ShellError::Output)
    }

    /// A line on standard error. That it cannot be written is nobody's concern any more.
    pub fn complain(&mut self, text: &str) -> Result<(), ShellError> {
        self.flush()?;
        let _ = writeln!(self.errors, "{text}");
        Ok(())
    }
}
