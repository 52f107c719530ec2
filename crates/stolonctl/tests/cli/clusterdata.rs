//! `stolonctl clusterdata`

use crate::harness::{Ctl, Run};

const DOCUMENTS: [&str; 3] = [
    include_str!("../../../stolon-model/tests/golden/after_init.json"),
    include_str!("../../../stolon-model/tests/golden/two_keepers_synchronous.json"),
    include_str!("../../../stolon-model/tests/golden/standby_cluster.json"),
];

#[test]
fn a_document_survives_byte_for_byte() {
    for document in DOCUMENTS {
        let ctl = Ctl::sqlite();
        let document = document.trim_end();
        let run = ctl.run_with(&["clusterdata", "write"], document);
        let said = "successfully wrote cluster data into the new store\n".to_owned();
        assert_eq!(run, Run { code: Some(0), stdout: said, stderr: String::new() });
        assert_eq!(ctl.done(&["clusterdata", "read", "ignored"]), format!("{document}\n"));
        let pretty = ctl.done(&["clusterdata", "read", "--pretty"]);
        assert!(pretty.starts_with("{\n\t\"formatVersion\": 1,\n\t\"changeTime\": "), "{pretty}");
        assert!(pretty.ends_with("\n}\n"));
    }
}

#[test]
fn what_is_there_is_only_overwritten_on_request() {
    let ctl = Ctl::sqlite();
    ctl.write(DOCUMENTS[0]);
    ctl.refused_with(
        &["clusterdata", "write"],
        DOCUMENTS[1],
        1,
        "WARNING: cluster data already available use --yes to override\n\
         hint: stolonctl clusterdata read saves what is there\n",
    );
    let run = ctl.run_with(&["clusterdata", "write", "-f", "-", "-y"], DOCUMENTS[1]);
    let said = "WARNING: The current cluster data will be removed\n\
                successfully wrote cluster data into the new store\n";
    assert_eq!(run, Run { code: Some(0), stdout: said.to_owned(), stderr: String::new() });
    assert_eq!(ctl.done(&["clusterdata", "read"]).trim_end(), DOCUMENTS[1].trim_end());
}

#[test]
fn the_document_may_come_from_a_file() {
    let ctl = Ctl::sqlite();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("cd.json").display().to_string();
    let run = ctl.run(&["clusterdata", "write", "-f", &file]);
    assert_eq!(run.code, Some(2));
    assert_eq!(
        run.stderr.lines().next().unwrap(),
        format!("cannot read file: open {file}: no such file or directory")
    );
    std::fs::write(&file, DOCUMENTS[2]).unwrap();
    ctl.done(&["clusterdata", "write", "--file", &file]);
    assert_eq!(ctl.done(&["clusterdata", "read"]).trim_end(), DOCUMENTS[2].trim_end());
}

#[test]
fn what_is_no_document_is_refused() {
    let ctl = Ctl::sqlite();
    for document in ["", "{", "[]", r#"{"formatVersion":"1"}"#] {
        let run = ctl.run_with(&["clusterdata", "write"], document);
        assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""), "{document}");
        assert!(run.stderr.starts_with("invalid cluster data: "), "{document}: {}", run.stderr);
        assert!(run.stderr.contains("(line 1, column "), "{document}: {}", run.stderr);
    }
    assert_eq!(ctl.run(&["clusterdata", "read"]).code, Some(1), "nothing was written");
}

#[test]
fn broken_rules_are_listed() {
    let ctl = Ctl::sqlite();
    ctl.write(DOCUMENTS[1]);
    assert_eq!(ctl.done(&["clusterdata", "check"]), "the cluster data break no rule\n");
    ctl.write(r#"{"formatVersion":1,"cluster":{"spec":{"initMode":"new"},"status":{"phase":"normal","master":"1"}}}"#);
    ctl.refused(
        &["clusterdata", "check"],
        1,
        "the cluster data break 1 of the rules that sentinels keep\n\
         hint: the sentinels mend what they can; stolonctl clusterdata write puts a saved document back\n",
    );
    assert_eq!(ctl.run(&["clusterdata", "check"]).stdout, "db 1 is named as the master but is not in dbs\n");
}
