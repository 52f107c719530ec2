use super::*;

fn config(parameters: &[(&str, &str)]) -> Config {
    let parameters = parameters.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
    Config { parameters, ..Config::default() }
}

fn rejected(name: &str, value: &str, origin: Origin) -> RejectedSetting {
    RejectedSetting { name: name.into(), value: value.into(), message: "no".into(), instead: None, origin }
}

fn exited(cause: DeathCause) -> StepFailure {
    let death = ServerDeath { status: "exit status 1".into(), explanation: "why".into(), cause };
    StepFailure { kind: FailureKind::ServerExited(death), sentence: "it ended".into(), hint: None }
}

/// A server came up with `parameters`.
fn proven(parameters: &[(&str, &str)]) -> Blame {
    let mut blame = Blame::new(None);
    blame.written(&config(parameters));
    blame.started();
    blame.came_up(&[]);
    blame
}

fn refused(blame: &Blame) -> Vec<&str> {
    blame.refusals().keys().map(String::as_str).collect()
}

#[test]
fn the_binaries_are_asked_once_about_the_same_settings_and_never_about_what_we_make_ourselves() {
    let mut blame = Blame::default();
    let first = config(&[("work_mem", "4MB")]);
    assert!(blame.must_ask(&first, ConfigMerge::Replace));
    assert_eq!(blame.answered(&first, ConfigMerge::Replace, &[]), Verdict::Accepted);
    assert!(!blame.must_ask(&first, ConfigMerge::Replace));
    assert!(
        blame.must_ask(&first, ConfigMerge::WithExisting),
        "files that came with the data are always asked about"
    );
    let topology = config(&[("work_mem", "4MB"), ("synchronous_standby_names", "a")]);
    assert!(!blame.must_ask(&topology, ConfigMerge::Replace));
    assert!(blame.must_ask(&config(&[("work_mem", "5MB")]), ConfigMerge::Replace));
}

#[test]
fn recovery_settings_that_go_away_are_not_asked_about() {
    let mut blame = Blame::default();
    let mut standby = config(&[]);
    standby.recovery.parameters.insert("primary_slot_name".into(), "s".into());
    assert!(blame.must_ask(&standby, ConfigMerge::Replace));
    blame.answered(&standby, ConfigMerge::Replace, &[]);
    assert!(!blame.must_ask(&config(&[]), ConfigMerge::Replace), "a promotion");
}

#[test]
fn what_becomes_of_a_refusal_depends_on_where_it_stands() {
    let file = Origin::ExistingFile { path: "postgresql.conf".into(), line: 3 };
    let library = |origin| RejectedSetting { instead: Some(String::new()), ..rejected("x", "y", origin) };
    let is_refused = |verdict: &Verdict| matches!(verdict, Verdict::Refused(_));
    let ask = |merge, setting: RejectedSetting| Blame::default().answered(&config(&[]), merge, &[setting]);
    use ConfigMerge::{Replace, WithExisting};
    assert_eq!(ask(Replace, rejected("x", "y", Origin::Parameters)), Verdict::Replan);
    let foreign = rejected("x", "y", file.clone());
    assert_eq!(ask(WithExisting, foreign.clone()), Verdict::CommentOut(vec![foreign]));
    assert!(is_refused(&ask(Replace, rejected("x", "y", Origin::Recovery))));
    assert!(
        is_refused(&ask(WithExisting, library(Origin::Parameters))),
        "restored data need their libraries"
    );
    assert!(is_refused(&ask(WithExisting, library(file))));
    assert_eq!(ask(Replace, library(Origin::Parameters)), Verdict::Replan, "later they are left out");
    assert!(is_refused(&ask(Replace, rejected("", "", Origin::Unknown))), "nothing is known that changed");
}

#[test]
fn the_same_refusal_twice_teaches_nothing() {
    let mut blame = Blame::default();
    let setting = [rejected("Work_Mem", "x", Origin::Parameters)];
    assert_eq!(blame.answered(&config(&[]), ConfigMerge::Replace, &setting), Verdict::Replan);
    assert_eq!(refused(&blame), ["work_mem"]);
    let again = blame.answered(&config(&[]), ConfigMerge::Replace, &setting);
    assert!(matches!(again, Verdict::Refused(_)), "or it would go round for ever: {again:?}");
}

#[test]
fn what_changed_since_a_server_came_up_is_suspected_and_innocent_when_leaving_it_out_does_not_help() {
    let mut blame = proven(&[("shared_buffers", "128MB")]);
    blame.written(&config(&[("shared_buffers", "900GB"), ("synchronous_standby_names", "a")]));
    assert_eq!(blame.did_not_start(&exited(DeathCause::Other)), Verdict::Replan);
    assert_eq!(refused(&blame), ["shared_buffers"], "what is made here is not suspected");
    assert_eq!(blame.refusals()["shared_buffers"].instead.as_deref(), Some("128MB"));

    let refusal = blame.did_not_start(&exited(DeathCause::Other));
    assert!(matches!(refusal, Verdict::Refused(_)), "{refusal:?}");
    assert_eq!(refused(&blame), Vec::<&str>::new(), "innocent");
}

#[test]
fn a_server_that_comes_up_without_the_suspects_convicts_them() {
    let mut blame = proven(&[("shared_buffers", "128MB")]);
    blame.written(&config(&[("shared_buffers", "900GB")]));
    blame.did_not_start(&exited(DeathCause::Other));
    blame.written(&config(&[("shared_buffers", "128MB")]));
    blame.started();
    blame.came_up(&[]);
    blame.did_not_start(&exited(DeathCause::Other));
    assert_eq!(refused(&blame), ["shared_buffers"]);
}

#[test]
fn only_an_end_that_settings_can_explain_makes_settings_suspect() {
    let failures = [
        (exited(DeathCause::PortTaken), false),
        (exited(DeathCause::DiskFull), false),
        (exited(DeathCause::Other), true),
        (StepFailure { kind: FailureKind::TimedOut, sentence: "late".into(), hint: None }, false),
    ];
    for (failure, suspected) in failures {
        let mut blame = proven(&[("a", "1")]);
        blame.written(&config(&[("a", "2")]));
        blame.did_not_start(&failure);
        assert_eq!(!blame.refusals().is_empty(), suspected, "{failure:?}");
    }
}

#[test]
fn nothing_is_suspected_before_a_server_ever_came_up() {
    let mut blame = Blame::new(None);
    blame.written(&config(&[("a", "2")]));
    assert!(matches!(blame.did_not_start(&exited(DeathCause::Other)), Verdict::Refused(_)));
    assert_eq!(refused(&blame), Vec::<&str>::new());
}

#[test]
fn what_waits_for_a_restart_is_not_proven() {
    let mut blame = proven(&[("max_connections", "100"), ("work_mem", "4MB")]);
    blame.written(&config(&[("max_connections", "200"), ("work_mem", "5MB"), ("port", "1")]));
    blame.reloaded(&[]);
    let proven = blame.came_up(&["max_connections".to_owned(), "port".to_owned()]).unwrap();
    let proven: Vec<(&str, &str)> =
        proven.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(proven, [("max_connections", "100"), ("work_mem", "5MB")]);
    assert_eq!(blame.came_up(&["max_connections".to_owned(), "port".to_owned()]), None, "nothing new");
}

#[test]
fn refused_settings_are_asked_about_again_now_and_then_but_not_those_that_only_a_start_can_tell() {
    let mut blame = Blame::default();
    assert!(!blame.wants_to_reconsider(Duration::from_secs(0)), "nothing is refused");
    blame.answered(&config(&[]), ConfigMerge::Replace, &[rejected("a", "1", Origin::Parameters)]);
    for (second, due) in [(0, false), (30, false), (31, true), (32, false), (62, true)] {
        assert_eq!(blame.wants_to_reconsider(Duration::from_secs(second)), due, "{second}");
    }
    blame.refusals.insert(
        "b".into(),
        Refusal {
            value: "2".into(),
            instead: None,
            ground: RefusalGround::DidNotStart,
            sentence: String::new(),
        },
    );
    blame.reconsidered(&[]);
    assert_eq!(refused(&blame), ["b"]);
}

#[test]
fn a_refused_line_of_the_hba_file_is_known_by_its_number_until_the_parameters_change() {
    let mut blame = Blame::default();
    let mut first = config(&[("a", "1")]);
    first.hba = vec![HbaLine::Verbatim("one\ntwo".into()), HbaLine::Verbatim("three".into())];
    blame.written(&first);
    let failure = exited(DeathCause::HbaLines(vec![3, 9]));
    assert_eq!(blame.did_not_start(&failure), Verdict::Replan);
    assert_eq!(blame.refused_hba().keys().collect::<Vec<_>>(), ["three"]);
    let problem = LineProblem { file: ConfigFile::Hba, line: 2, name: String::new(), error: "no".into() };
    assert_eq!(blame.reloaded(std::slice::from_ref(&problem)), Verdict::Replan);
    assert_eq!(blame.refused_hba().keys().collect::<Vec<_>>(), ["one\ntwo", "three"]);
    assert_eq!(blame.line_problems(), ["pg_hba.conf line 2 is not in force: no"]);
    assert_eq!(blame.reloaded(&[problem]), Verdict::Accepted, "no news");
    blame.written(&config(&[("a", "2")]));
    assert!(blame.refused_hba().is_empty());
}

/// The next look at the data shows what they demand.
#[test]
fn a_limit_that_the_data_demand_is_nobodys_fault() {
    let mut blame = proven(&[("max_connections", "120")]);
    blame.written(&config(&[("max_connections", "100")]));
    blame.started();
    assert!(matches!(blame.did_not_start(&exited(DeathCause::LimitsTooLow)), Verdict::Refused(_)));
    assert!(refused(&blame).is_empty(), "it is asked for again once the primary has it, too");
}
