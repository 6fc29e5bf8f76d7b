//! The control socket: one JSON question a connection, one JSON answer, root only.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

use crate::explain::Packet;
use crate::holdings::Excerpt;

/// A longer question is refused.
const LONGEST_QUESTION: usize = 4096;
/// How long either side waits for the other.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a client asks.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(tag = "ask", rename_all = "lowercase")]
pub enum Question {
    Status,
    Check,
    Explain(Packet),
    Mirror(Excerpt),
    Rules,
    Reload,
}

impl Question {
    /// How long the answer may take to come.
    fn patience(&self) -> Duration {
        match self {
            // A million routes are to be read or printed.
            Question::Mirror(_) | Question::Reload => Duration::from_secs(60),
            _ => PATIENCE,
        }
    }
}

/// What it is told.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    Ok(Value),
    /// Ready to print.
    Text(String),
    Error(String),
}

#[derive(thiserror::Error, Debug)]
pub enum SocketError {
    #[error("control socket {path}: another shunt is running there; stop it, or choose another path with --socket")]
    InUse { path: PathBuf },
    #[error("control socket {path}: there is a file of another kind; choose another path with --socket")]
    NotASocket { path: PathBuf },
    #[error("cannot make the control socket {path}: {source}; choose a writable path with --socket")]
    Bind { path: PathBuf, source: io::Error },
    #[error("no shunt answers at {path}: {source}; is it running, and with this --socket?")]
    NoDaemon { path: PathBuf, source: io::Error },
    #[error("the daemon at {path} gave no usable answer: {problem}")]
    BadAnswer { path: PathBuf, problem: String },
}

/// A question that waits for its answer.
pub struct Asked {
    pub question: Question,
    pub reply: oneshot::Sender<Answer>,
}

/// The daemon's end. Removes its path when dropped.
pub struct Server {
    questions: mpsc::Receiver<Asked>,
    path: PathBuf,
}

impl Server {
    /// Binds the path, readable and writable for the owner only, and listens in the background: a slow client holds up
    /// nobody. A socket that a dead daemon left is replaced.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        let path = path.to_owned();
        if let Ok(metadata) = std::fs::symlink_metadata(&path) {
            if !metadata.file_type().is_socket() {
                return Err(SocketError::NotASocket { path });
            }
            if StdStream::connect(&path).is_ok() {
                return Err(SocketError::InUse { path });
            }
            if let Err(source) = std::fs::remove_file(&path) {
                return Err(SocketError::Bind { path, source });
            }
        }
        let bound = UnixListener::bind(&path).and_then(|listener| {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
            Ok(listener)
        });
        let listener = match bound {
            Ok(listener) => listener,
            Err(source) => return Err(SocketError::Bind { path, source }),
        };
        let (sender, questions) = mpsc::channel(1);
        tokio::spawn(listen(listener, sender));
        Ok(Server { questions, path })
    }

    /// The next question. Cancel-safe.
    pub async fn question(&mut self) -> Asked {
        match self.questions.recv().await {
            Some(asked) => asked,
            // The listener never ends before the runtime does.
            None => std::future::pending().await,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn listen(listener: UnixListener, sender: mpsc::Sender<Asked>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(converse(stream, sender.clone()));
            }
            Err(error) => {
                eprintln!("control socket: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(mut stream: UnixStream, sender: mpsc::Sender<Asked>) {
    // Between bind and chmod a stranger could have connected, so the peer's uid is asked as well.
    let own = nix::unistd::geteuid().as_raw();
    if !stream.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == own) {
        return;
    }
    let answer = match read_question(&mut stream).await {
        Err(problem) => Answer::Error(problem),
        Ok(question) => {
            let (reply, answer) = oneshot::channel();
            match sender.send(Asked { question, reply }).await {
                Ok(()) => answer.await.unwrap_or_else(|_| Answer::Error("the daemon is stopping".to_owned())),
                Err(_) => Answer::Error("the daemon is stopping".to_owned()),
            }
        }
    };
    let text = serde_json::to_vec(&answer).unwrap_or_default();
    // A client that has left is no loss.
    let _ = tokio::time::timeout(PATIENCE, stream.write_all(&text)).await;
}

/// Reads one question. Errors are for the client.
async fn read_question(stream: &mut UnixStream) -> Result<Question, String> {
    let mut text = Vec::new();
    let mut limited = stream.take(LONGEST_QUESTION as u64 + 1);
    match tokio::time::timeout(PATIENCE, limited.read_to_end(&mut text)).await {
        Err(_) => return Err("no question within 5 s".to_owned()),
        Ok(Err(error)) => return Err(error.to_string()),
        Ok(Ok(_)) => {}
    }
    if text.len() > LONGEST_QUESTION {
        return Err(format!("the question is longer than {LONGEST_QUESTION} bytes"));
    }
    serde_json::from_slice(&text).map_err(|error| format!("not a question: {error}"))
}

/// The client's side: asks the daemon at `path`.
pub fn ask(path: &Path, question: &Question) -> Result<Answer, SocketError> {
    use std::io::{Read, Write};
    let no_daemon = |source| SocketError::NoDaemon { path: path.to_owned(), source };
    let bad = |problem: String| SocketError::BadAnswer { path: path.to_owned(), problem };
    let mut stream = StdStream::connect(path).map_err(no_daemon)?;
    stream.set_read_timeout(Some(question.patience())).map_err(no_daemon)?;
    let text = serde_json::to_vec(question).map_err(|error| bad(error.to_string()))?;
    stream.write_all(&text).and_then(|()| stream.shutdown(std::net::Shutdown::Write)).map_err(no_daemon)?;
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).map_err(|error| bad(error.to_string()))?;
    serde_json::from_slice(&reply).map_err(|error| bad(error.to_string()))
}
