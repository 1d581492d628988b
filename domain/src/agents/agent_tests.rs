use super::*;
use crate::test_support::ctx;

fn id() -> AgentId {
    AgentId::from(Uuid::from_u128(7))
}

fn settings(headers: &[(&str, Given)]) -> Settings {
    let headers = headers.iter().map(|(name, given)| ((*name).to_owned(), given.clone())).collect();
    let target = Target::Http(NewHttp { url: "https://agent.example/work".into(), headers });
    Settings { target, timeout_seconds: 30, retry: Retry::default() }
}

fn create(settings: Settings) -> AgentCommand {
    AgentCommand::Create { id: id(), external_id: None, name: "Ada".parse().unwrap(), settings }
}

fn configure(settings: Settings) -> AgentCommand {
    AgentCommand::Configure { id: id(), name: None, settings }
}

fn agent(settings: Settings) -> Agent {
    let mut agent = Agent::default();
    agent.decide(create(settings), &ctx()).unwrap().into_iter().for_each(|event| agent.apply(event));
    agent
}

#[test]
fn secrets_are_of_the_agent_and_one_that_is_kept_stays() {
    let token = |text: &str| Given::New(text.to_owned());
    let mut agent = agent(settings(&[("x-token", token("first"))]));
    let first = agent.http.clone().unwrap().headers["x-token"].clone();
    assert_eq!(first, Secret::open(id().uuid(), "first".into()));
    let kept = agent.decide(configure(settings(&[("x-token", Given::Kept)])), &ctx()).unwrap();
    kept.into_iter().for_each(|event| agent.apply(event));
    assert_eq!(agent.http.clone().unwrap().headers["x-token"], first);
    let other = agent.decide(configure(settings(&[("x-other", Given::Kept)])), &ctx());
    assert_eq!(other, Err(AgentError::NothingKept { name: SecretName::Header("x-other".into()) }));
    let mut elsewhere = settings(&[("x-token", Given::Kept)]);
    if let Target::Http(http) = &mut elsewhere.target {
        http.url = "https://agent.example:8443/work".into();
    }
    let carried_off = agent.decide(configure(elsewhere), &ctx());
    assert_eq!(carried_off, Err(AgentError::NothingKept { name: SecretName::Header("x-token".into()) }));
    let gone = agent.decide(configure(settings(&[])), &ctx()).unwrap();
    gone.into_iter().for_each(|event| agent.apply(event));
    assert!(agent.http.unwrap().headers.is_empty(), "what is not named is gone");
    assert_eq!(agent.name.unwrap().as_str(), "Ada", "a name that is not given stays");
}

#[test]
fn every_bound_is_held() {
    let refused = |change: fn(&mut Settings)| {
        let mut settings = settings(&[]);
        change(&mut settings);
        Agent::default().decide(create(settings), &ctx()).unwrap_err()
    };
    assert_eq!(refused(|s| s.timeout_seconds = 0), AgentError::Timeout);
    assert_eq!(refused(|s| s.timeout_seconds = 601), AgentError::Timeout);
    let retry = |source| AgentError::Retry { source };
    assert_eq!(refused(|s| s.retry.attempts = 0), retry(RetryError::Attempts));
    assert_eq!(refused(|s| s.retry.attempts = 11), retry(RetryError::Attempts));
    assert_eq!(refused(|s| s.retry.initial_seconds = -1.0), retry(RetryError::InitialSeconds));
    assert_eq!(refused(|s| s.retry.initial_seconds = f64::NAN), retry(RetryError::InitialSeconds));
    assert_eq!(refused(|s| s.retry.factor = 0.5), retry(RetryError::Factor));
    assert_eq!(refused(|s| s.retry.factor = f64::INFINITY), retry(RetryError::Factor));
    let many: Vec<_> = (0..=MAX_HEADERS).map(|n| (format!("x-{n}"), Given::New("v".into()))).collect();
    let many: Vec<_> = many.iter().map(|(name, given)| (name.as_str(), given.clone())).collect();
    assert_eq!(Agent::default().decide(create(settings(&many)), &ctx()), Err(AgentError::Headers));
    assert_eq!(Agent::default().decide(configure(settings(&[])), &ctx()), Err(AgentError::NotFound));
    assert_eq!(agent(settings(&[])).decide(create(settings(&[])), &ctx()), Err(AgentError::AlreadyExists));
}

#[test]
fn a_model_has_prices_within_bounds_and_its_prompt_is_its_own() {
    let prices = |prompt_per_million| Prices { currency: Currency::USD, prompt_per_million, completion_per_million: 1 };
    let llm = |prompt_per_million| {
        let system_prompt = Some("Be brief.".parse().unwrap());
        let api_key = Some(Given::New("key".into()));
        let (base_url, model) = ("https://models.example/v1".into(), "m-1".parse().unwrap());
        let prices = Some(prices(prompt_per_million));
        let target = Target::Llm(NewLlm { base_url, model, system_prompt, api_key, prices });
        Settings { target, ..settings(&[]) }
    };
    let made = agent(llm(250)).llm.unwrap();
    assert_eq!(made.system_prompt.unwrap().subject(), Some(id().uuid()));
    assert_eq!(Agent::default().decide(create(llm(-1)), &ctx()), Err(AgentError::Prices));
}

#[test]
fn waits_grow_and_are_bounded() {
    let seconds = |retry: Retry| {
        (1..=retry.attempts).map(|n| retry.wait_after(n).map(|wait| wait.as_seconds_f64())).collect::<Vec<_>>()
    };
    assert_eq!(
        seconds(Retry { attempts: 4, initial_seconds: 0.5, factor: 2.0 }),
        [Some(0.5), Some(1.0), Some(2.0), None]
    );
    assert_eq!(seconds(Retry { attempts: 1, initial_seconds: 1.0, factor: 1.0 }), [None]);
    let long = Retry { attempts: 5, initial_seconds: 600.0, factor: 10.0 };
    assert_eq!(seconds(long), [Some(600.0), Some(3600.0), Some(3600.0), Some(3600.0), None]);
}

#[test]
fn an_origin_is_scheme_host_and_port() {
    for (url, expected) in [
        ("https://a.example/x?y#z", "https://a.example"),
        ("https://a.example:8443/", "https://a.example:8443"),
        ("http://[::1]:80?x", "http://[::1]:80"),
        ("https://a.example", "https://a.example"),
    ] {
        assert_eq!(origin(url), expected);
    }
}

#[test]
fn nothing_that_is_given_is_printed() {
    let made = create(settings(&[("x-token", Given::New("hush".into()))]));
    assert!(!format!("{made:?}").contains("hush"));
}
