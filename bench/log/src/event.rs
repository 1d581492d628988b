//! The one event that every contender stores: a plan is created, or gets another name. 300 bytes of JSON, nothing
//! personal.

use domain::billing::{Interval, PlanCommand};
use domain::text::Line;
use domain::{Currency, Money};

/// Bytes of the payload, of either event.
pub const PAYLOAD_BYTES: usize = 300;
/// What a payload has besides the name.
const CREATED_FRAME: usize = r#"{"name":"","price":{"amount":2000,"currency":"USD"},"interval":"month"}"#.len();
const RENAMED_FRAME: usize = r#"{"name":""}"#.len();
/// A name has at most so many characters; some of two bytes make up for what is missing to the payload's size.
const NAME_CHARACTERS: usize = 255;

/// A name of so many bytes that is another one for each `n`.
fn name(n: u64, bytes: usize) -> Line {
    let mut name = format!("{n:020} ");
    name.extend(std::iter::repeat_n('é', bytes.saturating_sub(NAME_CHARACTERS)));
    name.extend(std::iter::repeat_n('x', bytes - name.len()));
    name.parse().expect("a name within its bounds")
}

pub fn create(n: u64) -> PlanCommand {
    PlanCommand::Create {
        external_id: None,
        name: name(n, PAYLOAD_BYTES - CREATED_FRAME),
        price: price(),
        interval: Interval::Month,
    }
}

pub fn rename(n: u64) -> PlanCommand {
    PlanCommand::Rename { name: Some(name(n, PAYLOAD_BYTES - RENAMED_FRAME)) }
}

fn price() -> Money {
    Money::new(2_000, Currency::USD).expect("a price within its bounds")
}
