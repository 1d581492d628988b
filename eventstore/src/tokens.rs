//! What clients hold of a log: sequences of their tenant and versions of streams, each with the incarnation that owns the
//! event. A number that belongs to a lost future is told from the same number in the life that followed.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use sqlx::PgConnection;
use uuid::Uuid;

use crate::incarnation::Incarnation;
use crate::store::{EventStore, StoreError};

/// A sequence or a version, as clients hold it: `12` in the first incarnation, `12@3` in the third.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// The sequence or version.
    pub number: i64,
    /// The life of the log that it belongs to.
    pub incarnation: i64,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.incarnation {
            1 => write!(f, "{}", self.number),
            later => write!(f, "{}@{later}", self.number),
        }
    }
}

/// A text that is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a number, or a number and an incarnation such as 12@3")]
pub struct BadToken;

impl FromStr for Token {
    type Err = BadToken;

    fn from_str(text: &str) -> Result<Self, BadToken> {
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            if digits { text.parse::<i64>().map_err(|_| BadToken) } else { Err(BadToken) }
        };
        match text.split_once('@') {
            None => Ok(Self { number: number(text)?, incarnation: 1 }),
            Some((of, life)) => {
                let token = Self { number: number(of)?, incarnation: number(life)? };
                if token.incarnation > 1 { Ok(token) } else { Err(BadToken) }
            }
        }
    }
}

/// What has become of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It belongs to the log as it is; it may still lie beyond its end.
    Stands,
    /// It belongs to what was lost when the log went back.
    Lost {
        /// The last sequence of the tenant that is as the caller has seen it.
        survived: Token,
    },
}

/// By tenant and life: the tenant's last sequence before that life began. It never changes.
#[derive(Clone, Default)]
pub(crate) struct Forks(Arc<Mutex<HashMap<(Uuid, i64), i64>>>);

/// How many of them are remembered.
const REMEMBERED: usize = 100_000;

impl Forks {
    fn get(&self, tenant: Uuid, life: i64) -> Option<i64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&(tenant, life)).copied()
    }

    fn put(&self, tenant: Uuid, life: i64, last: i64) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert((tenant, life), last);
    }
}

impl EventStore {
    /// A sequence of a tenant as its clients hold it.
    pub async fn token(&self, tenant: Uuid, sequence: i64) -> Result<Token, StoreError> {
        Ok(Token { number: sequence, incarnation: self.owner(tenant, sequence).await? })
    }

    /// What has become of a sequence that a client holds.
    pub async fn standing(&self, tenant: Uuid, token: Token) -> Result<Standing, StoreError> {
        // The life of a token may have been begun by another process just now.
        if token.incarnation > self.incarnations().newest().id {
            self.look().await?;
        }
        if self.owner(tenant, token.number).await? == token.incarnation {
            return Ok(Standing::Stands);
        }
        self.lost(tenant, token.incarnation).await
    }

    /// What has become of a version of a stream that a client holds.
    pub async fn version_standing(&self, tenant: Uuid, stream: Uuid, token: Token) -> Result<Standing, StoreError> {
        if token.incarnation > self.incarnations().newest().id {
            self.look().await?;
        }
        let newest = self.incarnations().newest().id;
        if newest == 1 && token.incarnation == 1 {
            return Ok(Standing::Stands);
        }
        let mut tx = self.inner.tenants.begin(tenant).await?;
        let sequence: Option<i64> =
            sqlx::query_scalar("SELECT sequence FROM events WHERE tenant_id = $1 AND stream_id = $2 AND version = $3")
                .bind(tenant)
                .bind(stream)
                .bind(token.number)
                .fetch_optional(&mut *tx)
                .await?;
        tx.commit().await?;
        let owner = match sequence {
            Some(sequence) => self.owner(tenant, sequence).await?,
            None => newest,
        };
        if owner == token.incarnation { Ok(Standing::Stands) } else { self.lost(tenant, token.incarnation).await }
    }

    async fn lost(&self, tenant: Uuid, life: i64) -> Result<Standing, StoreError> {
        let sequence = match self.incarnations().after(life) {
            Some(next) => self.last_before(tenant, next).await?,
            None => self.tenant_head(tenant).await?,
        };
        Ok(Standing::Lost { survived: self.token(tenant, sequence).await? })
    }

    /// The life in whose range the event of that sequence stands, or will.
    async fn owner(&self, tenant: Uuid, sequence: i64) -> Result<i64, StoreError> {
        for life in self.incarnations().later().rev() {
            if sequence > self.last_before(tenant, life).await? {
                return Ok(life.id);
            }
        }
        Ok(1)
    }

    /// The tenant's last sequence before that life began.
    async fn last_before(&self, tenant: Uuid, life: Incarnation) -> Result<i64, StoreError> {
        if let Some(known) = self.inner.forks.get(tenant, life.id) {
            return Ok(known);
        }
        let mut tx = self.inner.tenants.begin(tenant).await?;
        let last = last_before(&mut tx, tenant, life.first_position).await?;
        tx.commit().await?;
        self.inner.forks.put(tenant, life.id, last);
        Ok(last)
    }
}

/// Positions rise as sequences do, so a binary search finds it without an index of its own.
async fn last_before(conn: &mut PgConnection, tenant: Uuid, first_position: i64) -> Result<i64, sqlx::Error> {
    let head: Option<i64> = sqlx::query_scalar("SELECT sequence FROM tenant_heads WHERE tenant_id = $1")
        .bind(tenant)
        .fetch_optional(&mut *conn)
        .await?;
    let (mut low, mut high) = (0, head.unwrap_or_default());
    while low < high {
        let middle = high - (high - low) / 2;
        let position: i64 = sqlx::query_scalar("SELECT position FROM events WHERE tenant_id = $1 AND sequence = $2")
            .bind(tenant)
            .bind(middle)
            .fetch_one(&mut *conn)
            .await?;
        if position < first_position {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    Ok(low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_of_the_first_life_is_a_bare_number() {
        for (text, number, incarnation) in [("0", 0, 1), ("12", 12, 1), ("12@3", 12, 3), ("7@10", 7, 10)] {
            let token = Token { number, incarnation };
            assert_eq!(text.parse(), Ok(token));
            assert_eq!(token.to_string(), text);
        }
        for bad in
            ["", "-1", "+1", "x", "1.5", "1@", "@2", "1@1", "1@0", "1@x", "1@2@3", "1@-2", "99999999999999999999"]
        {
            assert_eq!(bad.parse::<Token>(), Err(BadToken), "{bad}");
        }
    }
}
