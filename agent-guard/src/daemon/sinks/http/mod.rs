//! HTTP: webhooks, and the HTTP Event Collector of Splunk.

mod client;
mod splunk;
mod webhook;

use bytes::Bytes;
use hyper::{StatusCode, header::HeaderValue};

use self::client::Answer;
pub use self::{
    splunk::{Splunk, SplunkConfig},
    webhook::{Webhook, WebhookConfig},
};
use super::{
    secret::SecretFile,
    transport::{Retry, Undelivered},
};

/// What a far end made of a request.
enum Fate {
    /// It has all of it.
    Taken,
    /// It will never take these lines together; it has so many, from the first on, where it says.
    Refused(String, Option<usize>),
    /// It may take them later.
    Later(Undelivered),
}

impl Fate {
    /// By the status. What an administrator of the far end can mend, a token or an address, is worth waiting for.
    fn of(answer: &Answer) -> Self {
        match answer.status {
            status if status.is_success() => Self::Taken,
            StatusCode::BAD_REQUEST
            | StatusCode::PAYLOAD_TOO_LARGE
            | StatusCode::UNSUPPORTED_MEDIA_TYPE
            | StatusCode::UNPROCESSABLE_ENTITY => Self::Refused(answer.to_string(), None),
            _ => Self::Later(Undelivered {
                retry: Retry::Later(answer.retry_after),
                ..Undelivered::later(answer)
            }),
        }
    }
}

/// Delivers lines by requests. Where some are refused together they are halved until it is one, so that nothing is
/// lost with it.
async fn deliver(
    lines: &[Bytes],
    mut post: impl AsyncFnMut(&[Bytes]) -> Fate,
) -> Result<(), Undelivered> {
    let (mut delivered, mut most) = (0, lines.len());
    while let Some(left) = lines.get(delivered..).filter(|left| !left.is_empty()) {
        let some = left.get(..most).unwrap_or(left);
        match post(some).await {
            Fate::Taken => delivered += some.len(),
            Fate::Refused(error, taken) if some.len() == 1 || taken.is_some() => {
                let delivered = delivered + taken.unwrap_or(0).min(some.len());
                return Err(Undelivered { delivered, error, retry: Retry::Never(1) });
            }
            Fate::Refused(..) => most = some.len().div_ceil(2),
            Fate::Later(undelivered) => return Err(Undelivered { delivered, ..undelivered }),
        }
    }
    Ok(())
}

/// The header `authorization` with the secret in `file`, as it is now.
fn authorization(scheme: &str, file: &SecretFile) -> Result<HeaderValue, Undelivered> {
    let secret = file.read().map_err(|error| Undelivered::later(format!("{error:#}")))?;
    let value = HeaderValue::from_str(&format!("{scheme} {}", secret.reveal()));
    let mut value = value
        .map_err(|_| Undelivered::later("the token has characters that no header can have"))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests;
