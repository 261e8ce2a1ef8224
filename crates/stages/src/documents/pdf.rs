//! PDF to text, in a process of its own: a broken file can exhaust the stack or spin, and then
//! only one document is lost.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// Bytes of text that one PDF may give.
const TEXT_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// How PDFs are read.
#[derive(Clone, Debug)]
pub enum PdfReader {
    /// By a child process: this command with the file's path as its last argument. It writes the
    /// text to stdout, or the reason to stderr and ends with a status that is not 0.
    Child {
        program: PathBuf,
        args: Vec<OsString>,
        /// How long one file may take.
        timeout: Duration,
    },
    /// In this process. A panic is contained; a stack that overflows is not.
    InProcess,
}

impl PdfReader {
    /// A child process of the running binary: `internal pdf-text FILE`, which must call
    /// [`pdf_text`]. In this process if the binary's path is unknown.
    pub fn this_binary() -> Self {
        match std::env::current_exe() {
            Ok(program) => PdfReader::Child {
                program,
                args: vec!["internal".into(), "pdf-text".into()],
                timeout: Duration::from_secs(120),
            },
            Err(_) => PdfReader::InProcess,
        }
    }

    /// The text of a PDF, or why there is none. Blocks.
    pub(crate) fn read(&self, path: &Path) -> Result<String, String> {
        let text = match self {
            PdfReader::InProcess => pdf_text(path)?,
            PdfReader::Child {
                program,
                args,
                timeout,
            } => in_child(program, args, *timeout, path)?,
        };
        let text = tidy(&text);
        if text.is_empty() {
            return Err("the PDF has no text in it; if it is a scan, run OCR on it first".into());
        }
        Ok(text)
    }
}

/// The text of a PDF, or why there is none. A panic of the parser is such a reason too.
pub fn pdf_text(path: &Path) -> Result<String, String> {
    // The parser panics on some broken files; what it says then means nothing to a user.
    match std::panic::catch_unwind(|| pdf_extract::extract_text(path)) {
        Ok(Ok(text)) => Ok(text),
        Ok(Err(e)) => Err(format!("not a readable PDF: {e}")),
        Err(_) => Err("not a readable PDF: its structure is broken".to_owned()),
    }
}

fn in_child(
    program: &Path,
    args: &[OsString],
    timeout: Duration,
    path: &Path,
) -> Result<String, String> {
    let child = Command::new(program)
        .args(args)
        .arg(path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("cannot start the PDF reader {}: {e}", program.display()))?;
    let mut child = Reaped(child);
    let out = child.0.stdout.take().map(drain);
    let err = child.0.stderr.take().map(drain);
    // The pipes close when the child ends, however that happens.
    let text = match out.map(|out| out.recv_timeout(timeout)) {
        Some(Ok(text)) => text,
        _ => {
            return Err(format!(
                "reading the PDF took longer than {} s",
                timeout.as_secs()
            ));
        }
    };
    if text.len() as u64 >= TEXT_BYTES_MAX {
        return Err(format!(
            "the PDF has more than {} MiB of text",
            TEXT_BYTES_MAX >> 20
        ));
    }
    let status = child
        .0
        .wait()
        .map_err(|e| format!("the PDF reader was lost: {e}"))?;
    if !status.success() {
        let said = err
            .and_then(|err| err.recv_timeout(Duration::from_secs(1)).ok())
            .unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        let said = said.trim().lines().last().unwrap_or_default();
        return Err(if said.is_empty() {
            format!("the PDF reader broke down ({status})")
        } else {
            said.to_owned()
        });
    }
    String::from_utf8(text).map_err(|_| "the PDF reader gave no text".to_owned())
}

/// Kills its process when the reader gives up on it.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        // Fails only if it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn drain(pipe: impl Read + Send + 'static) -> mpsc::Receiver<Vec<u8>> {
    let (tx, rx) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // A broken pipe gives what came before.
        let _ = pipe.take(TEXT_BYTES_MAX).read_to_end(&mut bytes);
        let _ = tx.send(bytes);
    });
    rx
}

/// Keeps bytes that came over HTTP in a file, for the reader to open.
pub(crate) fn spool(bytes: &[u8]) -> Result<tempfile::NamedTempFile, String> {
    let mut file = tempfile::NamedTempFile::new()
        .map_err(|e| format!("cannot write a temporary file: {e}"))?;
    file.write_all(bytes)
        .and_then(|()| file.flush())
        .map_err(|e| format!("cannot write a temporary file: {e}"))?;
    Ok(file)
}

/// The parser puts one or more empty lines between any two blocks.
fn tidy(text: &str) -> String {
    let mut tidied = String::with_capacity(text.len());
    let mut empty = 0;
    for line in text.lines().map(str::trim_end) {
        if line.is_empty() {
            empty += 1;
            continue;
        }
        if !tidied.is_empty() {
            tidied.push_str(if empty > 0 { "\n\n" } else { "\n" });
        }
        empty = 0;
        tidied.push_str(line);
    }
    tidied
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/fixtures/corpus")
            .join(name)
    }

    fn child(script: &str, timeout: Duration) -> PdfReader {
        PdfReader::Child {
            program: "sh".into(),
            args: vec!["-c".into(), script.into(), "sh".into()],
            timeout,
        }
    }

    #[test]
    fn a_child_reads_or_says_why_not() {
        let minute = Duration::from_secs(60);
        let rows = [
            ("printf 'a \\n\\n\\n\\nb\\nc\\n'", Ok("a\n\nb\nc")),
            (
                "echo bad cross-reference table >&2; exit 1",
                Err("bad cross-reference table"),
            ),
            ("exit 7", Err("the PDF reader broke down (exit status: 7)")),
            (
                "true",
                Err("the PDF has no text in it; if it is a scan, run OCR on it first"),
            ),
        ];
        for (script, expected) in rows {
            let text = child(script, minute).read(Path::new("x.pdf"));
            assert_eq!(
                text.as_deref().map_err(String::as_str),
                expected,
                "{script}"
            );
        }
    }

    #[test]
    fn a_child_that_hangs_is_given_up() {
        let reader = child("exec sleep 60", Duration::from_millis(20));
        let error = reader.read(Path::new("x.pdf")).unwrap_err();
        assert!(error.starts_with("reading the PDF took longer"), "{error}");
    }

    #[test]
    fn the_parser_reads_a_file_and_refuses_a_broken_one() {
        let text = PdfReader::InProcess.read(&fixture("notice.pdf")).unwrap();
        assert!(text.contains("Notice to millers"), "{text}");
        let error = PdfReader::InProcess
            .read(&fixture("broken.pdf"))
            .unwrap_err();
        assert!(error.starts_with("not a readable PDF"), "{error}");
    }
}
