//! The upstream that every proxy stands in front of: as little work as an answer can be.

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// 200 bytes of body.
fn answer() -> Vec<u8> {
    let mut answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 200\r\n\r\n".to_vec();
    answer.resize(answer.len() + 200, b'x');
    answer
}

/// Serves until it is killed: one answer for each end of a head, so requests may not have bodies.
pub fn serve(address: &str, port: u16) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind((address, port)).await?;
        loop {
            let (mut stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(async move {
                let answer = answer();
                let mut buffer = vec![0; 16 * 1024];
                let mut seen = 0;
                while let Ok(count) = stream.read(&mut buffer).await {
                    if count == 0 {
                        return;
                    }
                    for byte in &buffer[..count] {
                        seen = match (byte, seen) {
                            (b'\r', 0 | 2) | (b'\n', 1 | 3) => seen + 1,
                            (b'\r', _) => 1,
                            _ => 0,
                        };
                        if seen == 4 {
                            seen = 0;
                            if stream.write_all(&answer).await.is_err() {
                                return;
                            }
                        }
                    }
                }
            });
        }
    })
}
