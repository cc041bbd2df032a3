//! An agent that looks a customer up: the one of the README.
//! `DAYFLY_AGENT=support-bot cargo run -p dayfly-client --example answer_ticket`, beside `dayfly dev`.
#![expect(clippy::print_stdout, reason = "it is what the example is for")]

use dayfly_client::{Broker, Error};

#[tokio::main]
async fn main() -> Result<(), Error> {
    let broker = Broker::from_env()?;
    let tool = std::env::args().nth(1).unwrap_or("http://127.0.0.1:8441".into());
    let task = broker.task("answer ticket 4711", ["crm:read,comment@customers/42"]);
    let customer = task.run(async |task| {
        let crm = task.http("crm:read@customers/42")?;
        let answer = crm.get(format!("{tool}/customers/42")).send().await?;
        Ok::<_, Error>(answer.text().await?)
    });
    println!("{}", customer.await?); // the task is over, and its token is dead
    Ok(())
}
