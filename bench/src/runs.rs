//! Runs of an agent whose provider answers at once: first one after the other, then at a fixed rate (open loop).

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::provider::{self, Came};
use crate::user::{User, report};

#[derive(Clone, clap::Args)]
pub struct Runs {
    /// How many are given one after the other.
    #[arg(long, default_value_t = 300)]
    single: usize,
    /// How many a second are given afterwards.
    #[arg(long, default_value_t = 300)]
    rate: u64,
    /// For how long.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
}

impl Runs {
    pub async fn measure(self, user: User) {
        let came = Came::default();
        let address = provider::start(came.clone()).await;
        let http = json!({"url": format!("http://{address}/")});
        let agent = user.done("/agents", &json!({"name": "Bench", "kind": "http", "http": http})).await;
        let path = format!("/agents/{}/execute", agent["id"].as_str().expect("an id"));
        let mut first_bytes = Vec::new();
        for n in 0..self.single {
            let begun = Instant::now();
            user.done(&path, &json!({"input": {"n": n}})).await;
            first_bytes.push(until_came(&came, n).await - begun);
        }
        report("one after the other: POST …/execute to the provider's first byte", first_bytes);
        self.at_a_rate(&user, &path, &came).await;
    }

    async fn at_a_rate(&self, user: &User, path: &str, came: &Came) {
        let total = usize::try_from(self.rate * self.seconds).expect("a number of runs");
        let (begin, mut sent) = (Instant::now(), JoinSet::new());
        for n in 0..total {
            let due = begin + Duration::from_secs_f64(n as f64 / self.rate as f64);
            tokio::time::sleep_until(due.into()).await;
            let (user, path, number) = (user.clone(), path.to_owned(), self.single + n);
            sent.spawn(async move {
                let run = user.done(&path, &json!({"input": {"n": number}})).await;
                (number, due, run["id"].as_str().expect("an id").to_owned())
            });
        }
        let mut taken = Vec::with_capacity(total);
        while let Some(one) = sent.join_next().await {
            taken.push(one.expect("a run that was taken"));
        }
        let given = begin.elapsed();
        let mut first_bytes = Vec::with_capacity(total);
        for (number, due, _) in &taken {
            first_bytes.push(until_came(came, *number).await.saturating_duration_since(*due));
        }
        let last = taken.iter().max_by_key(|(number, ..)| *number).expect("a run");
        loop {
            let run: Value = user.read(&format!("/runs/{}", last.2)).await;
            if run["status"] == "succeeded" {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let done = begin.elapsed();
        println!(
            "at {} a second for {} s: {total} taken in {:.1} s, the last has its result after {:.1} s ({:.0} runs/s)",
            self.rate,
            self.seconds,
            given.as_secs_f64(),
            done.as_secs_f64(),
            total as f64 / done.as_secs_f64()
        );
        report("at that rate: due to the provider's first byte", first_bytes);
    }
}

async fn until_came(came: &Came, number: usize) -> Instant {
    loop {
        if let Some(Some(at)) = came.lock().expect("no panic held it").get(number) {
            return *at;
        }
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
}
