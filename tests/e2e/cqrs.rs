//! cqrs-es' own framework runs on our log unchanged.

use cqrs_es::{AggregateError, CqrsFramework};
use domain::cqrs::Adapted;
use domain::identity::{ApiKey, ApiKeyCommand, ApiKeyError};
use domain::{AnyId, ApiKeyId, Context, TenantId, TypedId};
use eventstore::cqrs::CqrsStore;
use eventstore::{Until, new_id};
use futures::future::join_all;

use crate::house::House;
use crate::tests;

tests![a_framework_appends_and_refuses_like_our_executor, a_framework_that_loses_a_race_is_told];

fn framework(house: &House, ctx: &Context) -> CqrsFramework<Adapted<ApiKey>, CqrsStore> {
    CqrsFramework::new(CqrsStore::new(house.store.clone(), ctx.clone()), Vec::new(), ctx.clone())
}

fn context() -> Context {
    Context::new(TenantId::from(new_id()), AnyId::new("sys", new_id()), commands::clock::now())
}

fn create() -> ApiKeyCommand {
    ApiKeyCommand::Create { name: "shop".parse().unwrap(), scopes: vec!["audit:read".into()], expires_at: None }
}

async fn a_framework_appends_and_refuses_like_our_executor(house: &House) {
    let (ctx, id) = (context(), ApiKeyId::from(new_id()));
    let framework = framework(house, &ctx);
    framework.execute(&id.to_string(), create()).await.unwrap();
    framework.execute(&id.to_string(), ApiKeyCommand::Revoke).await.unwrap();
    framework.execute(&id.to_string(), ApiKeyCommand::Revoke).await.unwrap();
    let refused = framework.execute(&id.to_string(), create()).await.unwrap_err();
    assert!(matches!(refused, AggregateError::UserError(ApiKeyError::AlreadyExists)));
    let events = house.store.read_stream(ctx.tenant.uuid(), id.uuid(), 0, Until::End, 10).await.unwrap();
    let types: Vec<_> = events.iter().map(|e| e.event_type.as_str()).collect();
    assert_eq!(types, ["api_key.created", "api_key.revoked"]);
    assert_eq!(events[0].actor, ctx.actor.to_string());
}

async fn a_framework_that_loses_a_race_is_told(house: &House) {
    let (ctx, id) = (context(), ApiKeyId::from(new_id()));
    let framework = framework(house, &ctx);
    let text = id.to_string();
    let results = join_all((0..8).map(|_| framework.execute(&text, create()))).await;
    assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 1);
    for error in results.into_iter().filter_map(Result::err) {
        let told =
            matches!(error, AggregateError::AggregateConflict | AggregateError::UserError(ApiKeyError::AlreadyExists));
        assert!(told, "{error}");
    }
}
