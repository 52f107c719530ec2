//! Questions and answers about pledges and vouchers, over the keeper's HTTP endpoint (docs/design/012-lease.md).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Extension;
use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use stolon_core::keeper::Event;
use stolon_model::{Document, Pledge, PledgeRequest};
use stolon_runtime::{Access, Asker, HttpServer, Protection};
use tokio::sync::{mpsc, oneshot};

use crate::http::{Shown, unauthorized};
use crate::keeper::now;

const PLEDGE: &str = "/pledge";
const VOUCHER: &str = "/voucher";
const LIVENESS: &str = "/liveness";
/// A question is short.
const LONGEST_QUESTION: usize = 4 << 10;
/// Questions that wait for the loop; more are turned away.
const QUEUE: usize = 16;
/// Whoever asks has given up by then.
const PATIENCE: Duration = Duration::from_secs(1);

/// A keeper wants a pledge.
pub(crate) struct Question {
    request: PledgeRequest,
    answer: oneshot::Sender<Option<Duration>>,
}

/// From the HTTP endpoint to the keeper's loop.
pub(crate) fn channel() -> (mpsc::Sender<Question>, mpsc::Receiver<Question>) {
    mpsc::channel(QUEUE)
}

/// Where others reach what listens at `bound`: there, or at the advertised address of PostgreSQL where it listens on all addresses. `scheme` stands
/// before it.
fn address(scheme: &str, bound: SocketAddr, advertised: &str) -> String {
    let port = bound.port();
    match (bound.ip().is_unspecified(), advertised.contains(':')) {
        (false, _) => format!("{scheme}{bound}"),
        (true, true) => format!("{scheme}[{advertised}]:{port}"),
        (true, false) => format!("{scheme}{advertised}:{port}"),
    }
}

/// What is published of an endpoint; nothing where those who ask would not believe it: the keeper of a primary counts on nobody who cannot be asked.
pub(crate) async fn published(
    server: &HttpServer,
    protection: &Protection,
    asker: &Asker,
    advertised: &str,
) -> String {
    let (scheme, bound) = (protection.scheme(), server.address());
    let address = address(scheme, bound, advertised);
    if scheme.is_empty() {
        return address;
    }
    match asker.finds(bound, &address, LIVENESS, PATIENCE * 5).await {
        Ok(()) => address,
        Err(error) => {
            tracing::error!(
                %error,
                "other keepers and proxies would not believe that this keeper is at {address}, so they are not told of it: its certificate has to name that \
                 address, and an authority in --http-ca-file has to have signed it"
            );
            String::new()
        }
    }
}

/// Questions that the machine has not answered yet.
#[derive(Default)]
pub(crate) struct Asked {
    last: u64,
    answers: BTreeMap<u64, oneshot::Sender<Option<Duration>>>,
}

impl Asked {
    pub(crate) fn take(&mut self, Question { request, answer }: Question) -> Event {
        self.last += 1;
        self.answers.insert(self.last, answer);
        Event::PledgeAsked { number: self.last, request }
    }

    pub(crate) fn answer(&mut self, number: u64, term: Option<Duration>) {
        if let Some(answer) = self.answers.remove(&number) {
            // Whoever asked may have given up: the pledge holds all the same.
            let _ = answer.send(term);
        }
    }
}

/// Asks another keeper.
pub(crate) async fn ask_for(asker: &Asker, address: &str, request: PledgeRequest, within: Duration) -> Event {
    let answer = asker.ask("POST", address, PLEDGE, &request.to_json(), within).await;
    let pledge = answer.ok().filter(|it| it.status == 200).and_then(|it| Pledge::from_json(&it.body).ok());
    Event::PledgeAnswered { instance: request.instance, term: pledge.map(|pledge| pledge.term.to_std()) }
}

pub(crate) fn routes() -> Router<Shown> {
    Router::new()
        .route(PLEDGE, post(pledge).layer(DefaultBodyLimit::max(LONGEST_QUESTION)))
        .route(VOUCHER, get(voucher))
}

async fn pledge(State(shown): State<Shown>, Extension(access): Extension<Access>, body: String) -> Response {
    if access == Access::CodesOnly {
        return unauthorized();
    }
    let Ok(request) = PledgeRequest::from_json(&body) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let (answer, answered) = oneshot::channel();
    if shown.questions.try_send(Question { request, answer }).is_err() {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    match tokio::time::timeout(PATIENCE, answered).await {
        Ok(Ok(Some(term))) => document(&Pledge { term: term.into() }),
        _ => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

/// What is left is counted when it is told, not when the picture was made.
async fn voucher(State(shown): State<Shown>, Extension(access): Extension<Access>) -> Response {
    if access == Access::CodesOnly {
        return unauthorized();
    }
    let voucher = shown.picture.borrow().voucher(now());
    match voucher {
        Some(voucher) => document(&voucher),
        None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

fn document(document: &impl Document) -> Response {
    ([(CONTENT_TYPE, "application/json")], document.to_json()).into_response()
}

#[cfg(test)]
mod tests {
    use stolon_core::keeper::{Picture, Vouched};
    use stolon_model::Voucher;
    use tokio::sync::watch;

    use super::*;

    #[test]
    fn others_are_told_where_they_can_reach_us() {
        for (bound, advertised, expected) in [
            ("10.0.0.7:8008", "10.0.0.1", "10.0.0.7:8008"),
            ("0.0.0.0:8008", "db1.example.org", "db1.example.org:8008"),
            ("[::]:8008", "fd00::1", "[fd00::1]:8008"),
        ] {
            assert_eq!(address("", bound.parse().unwrap(), advertised), expected);
            assert_eq!(
                address("https://", bound.parse().unwrap(), advertised),
                format!("https://{expected}")
            );
        }
    }

    #[tokio::test]
    async fn a_pledge_is_the_loops_to_give_and_a_voucher_counts_down() {
        let (pictures, picture) = watch::channel(Picture::default());
        let (questions, mut asked) = channel();
        let shown = Shown { keeper: "k1".into(), cluster: "c1".to_owned(), picture, questions };
        let server = crate::http::serve("127.0.0.1:0", &Protection::none(), shown).await.unwrap();
        let (at, asker) = (server.address().to_string(), Asker::plain());
        let request = PledgeRequest { primary: "a".into(), instance: "b".into(), ..PledgeRequest::default() };

        for term in [Some(Duration::from_secs(15)), None] {
            let asking = ask_for(&asker, &at, request.clone(), Duration::from_secs(5));
            let answering = async {
                let mut open = Asked::default();
                let Event::PledgeAsked { number, request: seen } = open.take(asked.recv().await.unwrap())
                else {
                    panic!("no question")
                };
                assert_eq!(seen, request);
                open.answer(number, term);
            };
            let (event, ()) = tokio::join!(asking, answering);
            let Event::PledgeAnswered { instance, term: told } = event else { panic!("{event:?}") };
            assert_eq!((instance.as_str(), told), ("b", term));
        }

        let ask = || asker.ask("GET", &at, VOUCHER, "", Duration::from_secs(5));
        assert_eq!(ask().await.unwrap().status, 503);
        let vouched = Vouched { instance: "a".into(), until: now() + Duration::from_secs(10) };
        pictures.send_replace(Picture { vouched: Some(vouched), ..Picture::default() });
        let told = ask().await.unwrap();
        let Voucher { instance, remaining } = Voucher::from_json(&told.body).unwrap();
        assert_eq!((told.status, instance.as_str()), (200, "a"));
        assert!(
            remaining.to_std() <= Duration::from_secs(10) && !remaining.to_std().is_zero(),
            "{remaining}"
        );
    }
}
