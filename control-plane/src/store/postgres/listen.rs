//! Notifications of one channel, over connections that are made again whenever they are lost.

use std::time::Duration;

use futures_util::stream::{self, BoxStream, StreamExt};
use sqlx::postgres::{PgListener, PgPool};

/// Pause before listening again after the connection was lost.
const PAUSE: Duration = Duration::from_secs(1);

/// What is sent over `channel`. The stream does not end.
pub(super) fn payloads(pool: PgPool, channel: &'static str) -> BoxStream<'static, String> {
    stream::unfold(None, move |listener| next(pool.clone(), channel, listener)).boxed()
}

/// Waits for a notification, and connects first where there is no connection.
async fn next(
    pool: PgPool,
    channel: &'static str,
    listener: Option<PgListener>,
) -> Option<(String, Option<PgListener>)> {
    let mut current = listener;
    loop {
        let mut listener = match current.take() {
            Some(listener) => listener,
            None => match listen(&pool, channel).await {
                Ok(listener) => listener,
                Err(error) => {
                    tracing::debug!("cannot listen on {channel}: {error}");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            },
        };
        match listener.try_recv().await {
            Ok(Some(notification)) => return Some((notification.payload().to_owned(), Some(listener))),
            // The connection was lost and made anew, or could not be.
            Ok(None) => current = Some(listener),
            Err(error) => {
                tracing::debug!("stopped listening on {channel}: {error}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn listen(pool: &PgPool, channel: &str) -> Result<PgListener, sqlx::Error> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen(channel).await?;
    Ok(listener)
}
