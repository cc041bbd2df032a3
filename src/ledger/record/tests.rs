//! What is written can be read, today's format stays readable, and damage is never read as something else.

use proptest::prelude::*;

use super::state::StoredCause;
use super::*;
use crate::model::fact::FactsVersion;
use crate::model::lease::Cause;
use crate::model::lease::{Curtailed, Effort, LeaseState, Receipt};

pub(super) const AT: Timestamp = Timestamp::from_millis(1_795_329_000_250);

fn task_id() -> TaskId {
    TaskId::new(AT, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
}

pub(super) const VOUCHED: Vouched = Vouched {
    kind: EvidenceKind::JwtSvid,
    key: Some(VouchingKey([0xe5, 0xfe, 0x50, 0x59, 0xdb, 0x69, 0x7d, 0xf8])),
    until: Timestamp::from_millis(AT.as_millis() + 3_600_000),
};

pub(super) fn lease() -> Lease {
    let id = LeaseId::new(task_id(), AT, [10, 9, 8, 7, 6, 5, 4, 3, 2, 1]);
    Lease {
        id,
        task: task_id(),
        agent: "support-bot".parse().unwrap(),
        environment: "production".parse().unwrap(),
        trust_domain: Some("example.org".parse().unwrap()),
        on_behalf_of: Some("user-4711".parse().unwrap()),
        delegators: Vec::new(),
        tool: "crm".parse().unwrap(),
        actions: ["read".parse().unwrap()].into(),
        resources: ["customers/42".parse().unwrap()].into(),
        provider: "jwt".parse().unwrap(),
        handle: Some(Handle(id.to_string())),
        ending: Ending::DenyListed,
        decision: DecisionId::new(AT, [3; 10]),
        issued_at: AT,
        expires_at: Timestamp::from_millis(AT.as_millis() + 300_000),
        bounded_by: Bound::Policy,
        requested: Ttl::from_secs(300),
        vouched: Some(VOUCHED),
        curtailed: None,
        listing: Default::default(),
        state: LeaseState::Active,
    }
}

pub(super) fn task() -> Task {
    let access = |resources: &[&str]| {
        let resources = resources.iter().map(|path| path.parse().unwrap()).collect();
        Access::new(
            "crm".parse().unwrap(),
            ["read".parse().unwrap()].into(),
            resources,
        )
        .unwrap()
    };
    Task {
        charter: Charter {
            id: task_id(),
            agent: "support-bot".parse().unwrap(),
            environment: "production".parse().unwrap(),
            trust_domain: None,
            subject: "spiffe://example.org/support".to_owned(),
            delegators: Vec::new(),
            purpose: "answer a ticket".parse().unwrap(),
            scope: Scope::new(vec![access(&[]), access(&["customers"])]).unwrap(),
            on_behalf_of: None,
            opened_at: AT,
            deadline: Timestamp::from_millis(AT.as_millis() + 3_600_000),
            heartbeat: Ttl::from_secs(60),
        },
        state: TaskState::Suspended,
        beat_at: AT,
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<_> = text.chars().filter(|c| !c.is_whitespace()).collect();
    let byte = |pair: &[char]| u8::from_str_radix(&String::from_iter(pair), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

pub(super) const LEASE_1: &str = "0101a201f2833a7102880706050403020101a201f2833a7102830405060708090a0b737570706f72742d626f740a70726f64756374696f6e010b6578616d706c652e6f72670109757365722d343731310363726d010472656164010c637573746f6d6572732f3432036a7774010101a201f2833a73038303030303030303ba86ca8fa0349aaedc8fa0340201";
pub(super) const GROUNDS: &str = "010001e5fe5059db697df8bae3a591a03401ac02";
pub(super) const TASK_1: &str = "0101a201f2833a7102830405060708090a0b737570706f72742d626f740a70726f64756374696f6e001c7370696666653a2f2f6578616d706c652e6f72672f737570706f72740f616e737765722061207469636b6574020363726d010472656164000363726d0104726561640109637573746f6d65727300ba86ca8fa034bae3a591a034013c01ba86ca8fa034";
const CUTOFF_1: &str = "01020b737570706f72742d626f74ffb7ff90fdce39ba86ca8fa0340105";

/// Before leases said what stood behind them.
fn lease_1() -> Lease {
    Lease {
        requested: None,
        vouched: None,
        ..lease()
    }
}

#[test]
fn format_1_stays_readable() {
    assert_eq!(decode_lease(&unhex(LEASE_1)).unwrap(), lease_1());
    assert_eq!(decode_task(&unhex(TASK_1)).unwrap(), task());
    assert_eq!(decode_cutoff(&unhex(CUTOFF_1)).unwrap(), cutoff());
}

#[test]
fn a_lease_of_format_2_is_one_of_format_1_with_its_grounds_behind_it() {
    let grounds = hex(&encode_lease(&lease()).unwrap());
    assert_eq!(grounds, format!("02{}{GROUNDS}", &LEASE_1[2..]));
    assert_eq!(decode_lease(&unhex(&grounds)).unwrap(), lease());
    let none = hex(&encode_lease(&lease_1()).unwrap());
    assert_eq!(none, format!("02{}0000", &LEASE_1[2..]));
}

#[test]
fn a_renewal_of_before_it_had_grounds_stays_readable() {
    let terms = Renewal {
        expires_at: AT,
        decision: DecisionId::new(AT, [4; 10]),
        bounded_by: Bound::Attestation,
        requested: lease().requested,
        vouched: lease().vouched,
        facts: FactsVersion::default(),
    };
    let renewed = Lease {
        decision: terms.decision,
        bounded_by: terms.bounded_by,
        ..lease()
    };
    let bytes = encode_renewal(&terms).unwrap();
    let written = format!("0201a201f2833a74048404040404040404{}", "07");
    assert_eq!(hex(&bytes), format!("{written}{GROUNDS}"));
    assert_eq!(decode_renewal(&bytes, lease_1()).unwrap(), renewed);
    let before = unhex(&format!("01{}", &written[2..]));
    let known = Lease {
        requested: None,
        vouched: None,
        ..renewed
    };
    assert_eq!(decode_renewal(&before, lease()).unwrap(), known);
}

#[test]
fn format_1_is_what_is_written_of_all_else() {
    assert_eq!(hex(&encode_task(&task()).unwrap()), TASK_1);
    assert_eq!(hex(&encode_cutoff(&cutoff()).unwrap()), CUTOFF_1);
}

pub(super) fn cutoff() -> Cutoff {
    Cutoff {
        selector: Selector::Agent("support-bot".parse().unwrap()),
        up_to: Timestamp::MAX,
        at: AT,
        cause: Cause::TaskEnded(Outcome::Revoked),
    }
}

fn signature() -> ReceiptSignature {
    ReceiptSignature {
        issuer: "https://dayfly.example.org".to_owned(),
        key: [0x1b, 0xdc, 0x8c, 0xa2],
        bytes: Box::new(std::array::from_fn(|place| u8::try_from(place).unwrap())),
    }
}

fn ended(signed: Option<ReceiptSignature>) -> Lease {
    Lease {
        state: LeaseState::Ended {
            cause: Cause::Revoked,
            at: AT,
            receipt: Receipt::DeniedAt { at: AT },
            signed,
        },
        ..lease()
    }
}

/// The lease without its state, and what comes behind that.
fn around() -> (String, String) {
    let bytes = hex(&encode_lease(&lease()).unwrap());
    let state = LEASE_1.len() - 2;
    (bytes[..state].to_owned(), bytes[state + 2..].to_owned())
}

#[test]
fn an_end_of_before_receipts_were_signed_stays_readable() {
    let bytes = hex(&encode_lease(&ended(None)).unwrap());
    let (before, behind) = around();
    assert_eq!(bytes, format!("{before}0403ba86ca8fa03401ba86ca8fa034{behind}"));
    assert_eq!(decode_lease(&unhex(&bytes)).unwrap(), ended(None));
}

#[test]
fn an_end_with_its_signature_is_written_like_this() {
    let halves = hex(signature().bytes.as_slice());
    let written = format!(
        "0503ba86ca8fa03401ba86ca8fa0341a{}1bdc8ca2{halves}",
        hex(b"https://dayfly.example.org")
    );
    let bytes = hex(&encode_lease(&ended(Some(signature()))).unwrap());
    let (before, behind) = around();
    assert_eq!(bytes, format!("{before}{written}{behind}"));
    let alone = encode_signature(&signature()).unwrap();
    assert_eq!(hex(&alone), format!("01{}", &written[30..]));
    assert_eq!(alone.len(), 96);
}

#[test]
fn a_typical_lease_takes_170_bytes() {
    let size = encode_lease(&lease()).unwrap().len();
    assert!(size <= 170, "{size}");
}

#[test]
fn the_numbers_of_variants_do_not_move() {
    fn number<T: Serialize>(value: T) -> Vec<u8> {
        postcard::to_stdvec(&value).unwrap()
    }
    let endings = [
        Ending::Immediate,
        Ending::DenyListed,
        Ending::AtExpiry,
        Ending::Never,
    ];
    assert_eq!(endings.map(number).concat(), [0, 1, 2, 3]);
    let bounds = [
        Bound::Requested,
        Bound::Default,
        Bound::Policy,
        Bound::Agent,
        Bound::Tool,
        Bound::Provider,
        Bound::Task,
        Bound::Attestation,
    ];
    assert_eq!(bounds.map(number).concat(), [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(Outcome::ALL.map(number).concat(), [0, 1, 2, 3, 4, 5, 6]);
    let kinds = [
        EvidenceKind::JwtSvid,
        EvidenceKind::Kubernetes,
        EvidenceKind::Oidc,
    ];
    assert_eq!(kinds.map(number).concat(), [0, 1, 2]);
    #[derive(Serialize)]
    struct Stored(#[serde(with = "StoredCause")] Cause);
    // Of the ends of tasks the first is enough: the outcomes are numbered above.
    let outcome =
        |cause: &&Cause| !matches!(cause, Cause::TaskEnded(outcome) if *outcome != Outcome::Completed);
    let causes = Cause::ALL.iter().filter(outcome);
    let causes: Vec<_> = causes.map(|cause| number(Stored(*cause))).collect();
    let mut numbers = vec![0, 1, 0];
    numbers.extend(2..=19);
    assert_eq!(causes.concat(), numbers);
}

#[test]
fn names_the_format_that_it_cannot_read() {
    let mut bytes = encode_lease(&lease()).unwrap();
    bytes[0] = 9;
    let error = decode_lease(&bytes).unwrap_err().to_string();
    assert!(error.contains("format 9"), "{error}");
}

#[test]
fn refuses_what_is_cut_short_or_too_long() {
    let bytes = encode_lease(&lease()).unwrap();
    for length in 0..bytes.len() {
        let error = decode_lease(&bytes[..length]).unwrap_err();
        assert!(matches!(error, LedgerError::Corrupt(_)), "{length}");
    }
    let longer = [bytes.as_slice(), &[0]].concat();
    assert!(matches!(decode_lease(&longer), Err(LedgerError::Corrupt(_))));
}

#[test]
fn keeps_every_kind_of_selector_apart() {
    let name = "crm";
    let selectors = [
        Selector::Lease(lease().id),
        Selector::Task(task_id()),
        Selector::Agent(name.parse().unwrap()),
        Selector::Tool(name.parse().unwrap()),
        Selector::User(name.parse().unwrap()),
        Selector::Environment(name.parse().unwrap()),
        Selector::TrustDomain(name.parse().unwrap()),
        Selector::All,
    ];
    let mut keys = BTreeSet::new();
    for selector in selectors {
        assert!(keys.insert(encode_selector(&selector).unwrap()), "{selector:?}");
        let cutoff = Cutoff { selector, ..cutoff() };
        assert_eq!(decode_cutoff(&encode_cutoff(&cutoff).unwrap()).unwrap(), cutoff);
    }
}

fn instant() -> impl Strategy<Value = Timestamp> {
    (0..=Timestamp::MAX.as_millis()).prop_map(Timestamp::from_millis)
}

fn parsed<T>(pattern: &'static str) -> impl Strategy<Value = T>
where
    T: std::str::FromStr<Err: std::fmt::Debug> + std::fmt::Debug,
{
    pattern.prop_map(|text| text.parse().unwrap())
}

fn cause() -> impl Strategy<Value = Cause> {
    prop::sample::select(Cause::ALL.to_vec())
}

fn vouched() -> impl Strategy<Value = Vouched> {
    let kinds = [
        EvidenceKind::JwtSvid,
        EvidenceKind::Kubernetes,
        EvidenceKind::Oidc,
    ];
    let fields = (
        prop::sample::select(kinds.to_vec()),
        prop::option::of(any::<[u8; 8]>()),
        instant(),
    );
    fields.prop_map(|(kind, key, until)| Vouched {
        kind,
        key: key.map(VouchingKey),
        until,
    })
}

fn any_signature() -> impl Strategy<Value = ReceiptSignature> {
    let fields = (".{0,60}", any::<[u8; 4]>(), any::<[[u8; 32]; 2]>());
    fields.prop_map(|(issuer, key, halves)| ReceiptSignature {
        issuer,
        key,
        bytes: halves.concat().try_into().unwrap(),
    })
}

fn lease_state() -> impl Strategy<Value = LeaseState> {
    let effort = || {
        let fields = (cause(), instant(), any::<u32>(), prop::option::of(".{0,40}"));
        fields.prop_map(|(cause, since, attempts, last_error)| Effort {
            cause,
            since,
            attempts,
            last_error,
            next_at: since, // kept beside the record
        })
    };
    let receipt = instant().prop_flat_map(|at| {
        prop_oneof![
            Just(Receipt::VerifiedAbsent { at }),
            Just(Receipt::DeniedAt { at }),
            Just(Receipt::ExpiresAt { at }),
            Just(Receipt::Outlived { at }),
            Just(Receipt::Abandoned { at })
        ]
    });
    prop_oneof![
        Just(LeaseState::Reserved),
        Just(LeaseState::Active),
        effort().prop_map(LeaseState::Revoking),
        effort().prop_map(LeaseState::Stuck),
        (cause(), instant(), receipt, prop::option::of(any_signature())).prop_map(
            |(cause, at, receipt, signed)| LeaseState::Ended {
                cause,
                at,
                receipt,
                signed
            }
        ),
    ]
}

prop_compose! {
    fn any_lease()(
        random in any::<[u8; 10]>(),
        (issued_at, expires_at) in (instant(), instant()),
        agent in parsed("[a-z][a-z0-9-]{0,62}"),
        trust_domain in prop::option::of(parsed("[a-z0-9.]{1,30}")),
        on_behalf_of in prop::option::of(parsed("[a-zA-Zäöü@ ]{1,20}x")),
        actions in prop::collection::btree_set(parsed("[a-z]{1,8}"), 0..5),
        resources in prop::collection::btree_set(parsed("[a-z0-9]{1,8}/[a-z0-9]{1,8}"), 0..5),
        handle in prop::option::of(".{0,60}"),
        (requested, vouched) in (prop::option::of(1..=3600u32), prop::option::of(vouched())),
        curtailed in prop::option::of((instant(), cause())),
        state in lease_state(),
    ) -> Lease {
        let live = matches!(state, LeaseState::Reserved | LeaseState::Active);
        Lease {
            requested: requested.and_then(Ttl::from_secs), vouched,
            curtailed: curtailed.filter(|_| live).map(|(at, cause)| Curtailed { at, cause }),
            id: LeaseId::new(task_id(), issued_at, random),
            agent, trust_domain, on_behalf_of, actions, resources, issued_at, expires_at, state,
            handle: handle.map(Handle),
            ..lease()
        }
    }
}

proptest! {
    #[test]
    fn reads_back_any_lease(lease in any_lease()) {
        prop_assert_eq!(decode_lease(&encode_lease(&lease).unwrap()).unwrap(), lease);
    }

    #[test]
    fn reads_back_any_task(
        subject in ".{0,100}",
        purpose in parsed("[a-zäöü ]{0,40}x"),
        beat_at in instant(),
        heartbeat in prop::option::of(1..=3600u32),
        state in prop_oneof![
            Just(TaskState::Open),
            instant().prop_map(|at| TaskState::Ended { outcome: Outcome::Lost, at }),
        ],
    ) {
        let mut stored = task();
        stored.charter.subject = subject;
        stored.charter.purpose = purpose;
        stored.charter.heartbeat = heartbeat.and_then(Ttl::from_secs);
        stored.beat_at = beat_at;
        stored.state = state;
        prop_assert_eq!(decode_task(&encode_task(&stored).unwrap()).unwrap(), stored);
    }

    #[test]
    fn any_bytes_are_a_record_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let bytes = [&[LEASE_FORMAT], bytes.as_slice()].concat();
        let _ = decode_lease(&bytes);
        let _ = decode_renewal(&bytes, lease());
        let bytes = [&[FORMAT], &bytes[1..]].concat();
        let _ = decode_lease(&bytes);
        let _ = decode_task(&bytes);
        let _ = decode_cutoff(&bytes);
        let _ = decode_signature(&bytes);
        let _ = decode_fact(&bytes);
        let _ = decode_recheck(&bytes);
    }
}
