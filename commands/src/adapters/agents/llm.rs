//! A language model behind an OpenAI-compatible chat endpoint: `POST <base_url>/chat/completions` as OpenAI's API
//! reference has it, without streaming.
//!
//! An input with `messages` (each with `role` and `content`) is the conversation; one with `prompt` is what the user says;
//! any other is told as JSON. The result has `text`, `model` and `finish_reason`.

use domain::agents::{AttemptOutcome, Cost, FailureCode, Prices, Usage};
use domain::personal::SECRET;
use hyper::header::{AUTHORIZATION, HeaderValue};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Call, Failed, post};
use crate::egress::Egress;

/// How many bytes an answer may have: what stands around the text does not count as result.
const MAX_BODY: usize = 1024 * 1024;

/// The most tokens that one answer is believed to have.
const MOST_TOKENS: i64 = 1_000_000_000;

/// What we read of an answer.
#[derive(Deserialize)]
struct Completion {
    #[serde(default)]
    model: Option<String>,
    choices: Vec<Choice>,
    #[serde(default)]
    usage: Value,
}

#[derive(Deserialize)]
struct Choice {
    message: Message,
    #[serde(default)]
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    content: Option<String>,
}

pub(super) async fn call(egress: &Egress, mut call: Call) -> Result<AttemptOutcome, Failed> {
    let llm = call.agent["llm"].take();
    let input = std::mem::take(&mut call.input);
    let mut headers = Vec::new();
    if let Some(key) = llm["api_key"][SECRET].as_str() {
        let bearer = HeaderValue::from_str(&format!("Bearer {key}"));
        let mut bearer =
            bearer.map_err(|_| Failed::for_good(FailureCode::Unsendable, "the key has no form that can be sent"))?;
        bearer.set_sensitive(true);
        headers.push((AUTHORIZATION, bearer));
    }
    let url = format!("{}/chat/completions", llm["base_url"].as_str().unwrap_or_default().trim_end_matches('/'));
    let body = json!({ "model": llm["model"], "messages": messages(llm["system_prompt"].as_str(), input) });
    let answer = post(egress, &call, url, headers, &body, MAX_BODY).await?;
    read(answer, &llm["prices"])
}

/// The conversation that the model is shown.
fn messages(system_prompt: Option<&str>, mut input: Map<String, Value>) -> Vec<Value> {
    let mut messages: Vec<Value> =
        system_prompt.into_iter().map(|prompt| json!({ "role": "system", "content": prompt })).collect();
    match (input.remove("messages"), input.remove("prompt")) {
        (Some(Value::Array(given)), None) if input.is_empty() => messages.extend(given),
        (None, Some(Value::String(prompt))) if input.is_empty() => {
            messages.push(json!({ "role": "user", "content": prompt }));
        }
        (given, prompt) => {
            let taken = [("messages", given), ("prompt", prompt)];
            input.extend(taken.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
            messages.push(json!({ "role": "user", "content": Value::Object(input).to_string() }));
        }
    }
    messages
}

fn read(answer: Value, prices: &Value) -> Result<AttemptOutcome, Failed> {
    let unknown = || Failed::for_good(FailureCode::InvalidResponse, "the model's answer is no chat completion");
    let completion: Completion = serde_json::from_value(answer).map_err(|_| unknown())?;
    let choice = completion.choices.into_iter().next().ok_or_else(unknown)?;
    let usage = completion.usage.is_object().then(|| Usage {
        prompt_tokens: counted(&completion.usage["prompt_tokens"]),
        completion_tokens: counted(&completion.usage["completion_tokens"]),
    });
    let prices: Option<Prices> = serde_json::from_value(prices.clone()).unwrap_or_default();
    let cost = usage.zip(prices).map(|(usage, prices)| cost(usage, prices));
    let result = json!({
        "text": choice.message.content,
        "model": completion.model,
        "finish_reason": choice.finish_reason,
    });
    Ok(AttemptOutcome::Succeeded { result, usage, cost })
}

/// How many tokens a provider says that it counted. Whatever it says is no reason to lose an answer that was paid for, and
/// what nobody could have counted must not spoil the sums.
fn counted(value: &Value) -> i64 {
    let number = value.as_i64().or_else(|| value.as_f64().map(|number| number as i64));
    number.unwrap_or_default().clamp(0, MOST_TOKENS)
}

/// A price a million tokens, in minor units, is a price a token in millionths of one.
fn cost(usage: Usage, prices: Prices) -> Cost {
    let prompt = usage.prompt_tokens.saturating_mul(prices.prompt_per_million);
    let completion = usage.completion_tokens.saturating_mul(prices.completion_per_million);
    Cost { amount_micros: prompt.saturating_add(completion), currency: prices.currency }
}

#[cfg(test)]
mod tests {
    use domain::Currency;

    use super::*;

    fn input(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn an_input_is_a_conversation_a_prompt_or_told_as_json() {
        let said = |value| messages(Some("Be brief."), input(value));
        let system = json!({"role": "system", "content": "Be brief."});
        let user = |content: &str| json!({"role": "user", "content": content});
        assert_eq!(said(json!({"prompt": "why?"})), [system.clone(), user("why?")]);
        assert_eq!(said(json!({"messages": [user("a"), user("b")]})), [system.clone(), user("a"), user("b")]);
        assert_eq!(said(json!({"order": 7})), [system.clone(), user(r#"{"order":7}"#)]);
        assert_eq!(said(json!({"prompt": "why?", "order": 7})), [system, user(r#"{"order":7,"prompt":"why?"}"#)]);
        assert_eq!(messages(None, input(json!({"prompt": "why?"}))), [user("why?")]);
    }

    #[test]
    fn an_answer_is_read_and_costs_are_exact() {
        // The example of OpenAI's API reference, shortened.
        let answer = json!({
            "id": "chatcmpl-123", "object": "chat.completion", "created": 1_677_652_288, "model": "gpt-4o-mini",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello there"}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21},
        });
        let prices = json!({"currency": "USD", "prompt_per_million": 15, "completion_per_million": 60});
        let Ok(AttemptOutcome::Succeeded { result, usage, cost }) = read(answer, &prices) else { panic!("no success") };
        assert_eq!(result, json!({"text": "Hello there", "model": "gpt-4o-mini", "finish_reason": "stop"}));
        assert_eq!(usage, Some(Usage { prompt_tokens: 9, completion_tokens: 12 }));
        assert_eq!(cost, Some(Cost { amount_micros: 9 * 15 + 12 * 60, currency: Currency::USD }));
        let odd = json!({"prompt_tokens": 9.0, "completion_tokens": i64::MAX});
        let odd = json!({"choices": [{"message": {"content": "x"}}], "usage": odd});
        let Ok(AttemptOutcome::Succeeded { usage, .. }) = read(odd, &prices) else { panic!("no success") };
        assert_eq!(usage, Some(Usage { prompt_tokens: 9, completion_tokens: MOST_TOKENS }));
        for bad in [json!({}), json!([]), json!({"choices": []}), json!({"choices": [{"message": "x"}]})] {
            assert!(read(bad, &Value::Null).is_err());
        }
    }
}
