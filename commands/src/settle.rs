//! Carries out what a process wants done. Each command goes under its own id, so that a repetition has no second effect.

use std::time::Instant;

use chrono::TimeDelta;
use domain::commerce::{Customer, CustomerCommand};
use domain::privacy::{PrivacyRequest, PrivacyRequestCommand};
use domain::process::{Outcome, Send};
use domain::{Aggregate, CustomerId, TypedId};
use eventstore::chain;

use crate::context::{CommandContext, ExecuteError};
use crate::executor::Executor;

/// Something that a command needs does not answer: it is sent again later, under the same id.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("a command of a process could not be carried out yet")]
pub(crate) struct Later;

impl Executor {
    /// Carries one command of a process out and tells its outcome.
    pub(crate) async fn settle(&self, cc: CommandContext, send: Send) -> Result<Outcome, Later> {
        match send {
            Send::StartRequest { request } => {
                self.sent::<PrivacyRequest>(cc, "privacy.request.start", request, PrivacyRequestCommand::Start).await
            }
            Send::BeginErasure { customer, request } => {
                let command = CustomerCommand::BeginErasure { subject: customer, request };
                self.sent::<Customer>(cc, "commerce.customer.begin_erasure", customer, command).await
            }
            Send::DestroyKeys { customer } => self.destroy_keys(cc, customer).await,
            Send::CompleteErasure { customer } => {
                let command = CustomerCommand::CompleteErasure;
                self.sent::<Customer>(cc, "commerce.customer.complete_erasure", customer, command).await
            }
            Send::CompleteRequest { request, receipt } => {
                let command = PrivacyRequestCommand::Complete { receipt };
                self.sent::<PrivacyRequest>(cc, "privacy.request.complete", request, command).await
            }
        }
    }

    async fn sent<A: Aggregate>(
        &self,
        mut cc: CommandContext,
        name: &'static str,
        id: A::Id,
        command: A::Command,
    ) -> Result<Outcome, Later> {
        cc.name = name;
        match self.execute::<A>(cc, id, command).await {
            Ok(_) => Ok(Outcome::Done),
            Err(ExecuteError::Rule(rule)) => Ok(Outcome::Refused { code: rule.to_string() }),
            Err(error) => {
                tracing::warn!(error = chain(&error), command = name, "a process's command waits");
                Err(Later)
            }
        }
    }

    /// The keys go while the tombstone stands; then every process forgets what it may have read in between.
    async fn destroy_keys(&self, cc: CommandContext, customer: CustomerId) -> Result<Outcome, Later> {
        let begun = Instant::now();
        let destroyed = async {
            self.store.all_have_seen(self.store.epoch()).await.map_err(|error| error.to_string())?;
            let classes =
                self.vault.destroy(cc.ctx.tenant.uuid(), customer.uuid()).await.map_err(|error| error.to_string())?;
            let epoch = self.store.raise_epoch().await.map_err(|error| error.to_string())?;
            self.store.all_have_seen(epoch).await.map_err(|error| error.to_string())?;
            Ok::<_, String>(classes)
        };
        match destroyed.await {
            // By the tenant's own clock, as all that happens to it.
            Ok(classes) => {
                let took = TimeDelta::from_std(begun.elapsed()).unwrap_or_default();
                Ok(Outcome::KeysDestroyed { classes, at: domain::context::micros(cc.ctx.now + took) })
            }
            Err(error) => {
                tracing::warn!(error, "keys could not be destroyed yet");
                Err(Later)
            }
        }
    }
}
