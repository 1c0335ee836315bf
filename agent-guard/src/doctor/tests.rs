//! Hosts as they are found in the field, and what is told of each.

use std::io;

use agent_guard_common::hook::HookTier;

use super::{
    conclude,
    finding::{Finding, Probe, State},
    host::Kernel,
    programs::{HookFinding, Refusal, Sort},
    report::{Report, Style},
    security,
    tiers::Canary,
};
use crate::{cli::output, tier::Tier};

/// A host on which everything is there; each test takes something away.
struct Host {
    lsm: &'static str,
    lockdown: &'static str,
    lsm_programs: Option<Refusal>,
    others: Vec<Finding>,
    canaries: [Canary; 3],
}

impl Host {
    fn with_everything() -> Self {
        Self {
            lsm: "capability,landlock,bpf",
            lockdown: "[none] integrity confidentiality",
            lsm_programs: None,
            others: vec![Probe { name: "kernel types (BTF)", needed_by: &Tier::ALL }.yes("there")],
            canaries: [Canary::Passed, Canary::Passed, Canary::Passed],
        }
    }

    fn report(self) -> Report {
        let text = |text: &str| -> io::Result<Option<String>> { Ok(Some(text.to_owned())) };
        let mut probes = self.others;
        probes.push(security::judge_modules(text(self.lsm), "/sys/kernel/security/lsm"));
        probes.push(security::judge_lockdown(
            text(self.lockdown),
            "/sys/kernel/security/lockdown",
            self.lsm_programs.as_ref(),
        ));
        let hook = |tier, refusal: Option<Refusal>| HookFinding {
            hook: "some_hook",
            kind: "lsm",
            decides: "something",
            state: if refusal.is_some() { State::No } else { State::Yes },
            detail: refusal.as_ref().map(|refusal| refusal.why.clone()),
            without_it: "nothing would be decided",
            verified_instructions: None,
            tier,
            refusal,
        };
        let absent = HookFinding {
            hook: "newer_hook",
            state: State::Absent,
            detail: Some("this kernel has no such hook".to_owned()),
            without_it: "nothing: this kernel can not do it",
            ..hook(HookTier::Lsm, None)
        };
        let hooks =
            vec![hook(HookTier::Lsm, self.lsm_programs), hook(HookTier::Cgroup, None), absent];
        let [lsm, trace, observe] = self.canaries;
        let canaries = [(Tier::Lsm, lsm), (Tier::Trace, trace), (Tier::Observe, observe)];
        conclude(
            Kernel { release: "6.12.1".to_owned(), machine: "x86_64".to_owned() },
            probes,
            hooks,
            &canaries,
        )
    }
}

fn failed(why: &str) -> Canary {
    Canary::Failed(why.to_owned())
}

/// What is told of tier lsm.
fn remedies(report: &Report) -> String {
    report.tiers[0].remedies.join("\n")
}

fn plain(report: &Report, width: usize) -> String {
    report.table(Style { colour: false, width })
}

#[test]
fn a_host_with_everything_enforces_at_its_strongest_tier() {
    let report = Host::with_everything().report();
    assert_eq!((report.tier, report.enforces), (Some(Tier::Lsm), true));
    assert!(report.tiers.iter().all(|tier| tier.remedies.is_empty() && tier.because.is_empty()));
}

#[test]
fn a_locked_down_host_enforces_at_trace_and_is_told_why_not_more() {
    let report = Host {
        lockdown: "none [integrity] confidentiality",
        lsm_programs: Some(Refusal { sort: Sort::Permission, why: "EPERM".to_owned() }),
        canaries: [failed("refused"), Canary::Passed, Canary::Passed],
        ..Host::with_everything()
    }
    .report();
    assert_eq!((report.tier, report.enforces), (Some(Tier::Trace), true));
    assert_eq!(report.tiers[0].because, ["lockdown lets BPF in"]);
    assert!(remedies(&report).contains("owner decides"));
}

#[test]
fn without_bpf_on_the_boot_line_the_remedy_is_the_boot_line() {
    // The programs load and attach there; the canary alone shows that they never run.
    let report = Host {
        lsm: "capability,landlock,yama,apparmor",
        canaries: [failed("went through"), Canary::Passed, Canary::Passed],
        ..Host::with_everything()
    }
    .report();
    assert_eq!(report.tier, Some(Tier::Trace));
    assert_eq!(report.tiers[0].state, State::No);
    assert!(remedies(&report).contains("`lsm=landlock,yama,apparmor,bpf`"));
}

#[test]
fn without_types_nothing_works_and_every_tier_says_so() {
    let missing = Probe { name: "kernel types (BTF)", needed_by: &Tier::ALL };
    let report = Host {
        others: vec![missing.no("not there", "boot a kernel with CONFIG_DEBUG_INFO_BTF=y")],
        canaries: [failed("no types"), failed("no types"), failed("no types")],
        ..Host::with_everything()
    }
    .report();
    assert_eq!((report.tier, report.enforces), (None, false));
    for tier in &report.tiers {
        assert_eq!(tier.state, State::No);
        assert!(tier.remedies[0].contains("CONFIG_DEBUG_INFO_BTF"));
    }
    assert!(plain(&report, 100).contains("CAN NOT WORK HERE"));
}

#[test]
fn without_a_cgroup_no_tier_is_to_be_had() {
    let missing = Probe { name: "cgroup2 mounted", needed_by: &Tier::ALL };
    let report = Host {
        others: vec![missing.no("not there", "mount it")],
        canaries: [Canary::NoCgroup, Canary::NoCgroup, Canary::NoCgroup],
        ..Host::with_everything()
    }
    .report();
    assert_eq!(report.tier, None);
    assert!(
        report.tiers.iter().all(|tier| tier.state == State::No && tier.remedies == ["mount it"])
    );
}

#[test]
fn whoever_is_not_root_learns_what_can_be_told_and_nothing_more() {
    let right = Probe { name: "right to load programs", needed_by: &Tier::ALL };
    let report = Host {
        others: vec![right.no("lacks CAP_BPF", "run as root")],
        canaries: [Canary::NoRight, Canary::NoRight, Canary::NoRight],
        ..Host::with_everything()
    }
    .report();
    assert_eq!((report.tier, report.enforces), (None, false));
    assert!(report.tiers.iter().all(|tier| tier.state == State::Unknown));
    let table = plain(&report, 100);
    assert!(table.contains("Could not tell") && table.contains("run as root"));
    assert!(!table.contains("CAN NOT WORK HERE"));
}

#[test]
fn a_host_that_only_observes_does_not_pass_for_one_that_enforces() {
    let report = Host {
        canaries: [failed("refused"), failed("refused"), Canary::Passed],
        ..Host::with_everything()
    }
    .report();
    assert_eq!((report.tier, report.enforces), (Some(Tier::Observe), false));
    assert!(plain(&report, 100).contains("NOTHING IS ENFORCED HERE"));
    assert!(report.coverage.iter().all(|row| row.cover.words() != "refused"));
}

#[test]
fn a_failure_that_no_probe_explains_is_not_passed_over() {
    let report = Host {
        canaries: [failed("went through"), Canary::Passed, Canary::Passed],
        ..Host::with_everything()
    }
    .report();
    assert!(remedies(&report).contains("report it"));
}

#[test]
fn the_table_says_everything_in_words_and_keeps_to_the_width() {
    let nothing = Host {
        canaries: [failed("refused"), failed("refused"), Canary::NoRight],
        ..Host::with_everything()
    }
    .report();
    let report = Host::with_everything().report();
    for width in [60, 80, 100, 120] {
        let table = plain(&report, width) + &plain(&nothing, width);
        assert!(table.contains("✓ yes") && table.contains("✗ no") && table.contains("? unknown"));
        assert!(!table.contains('\x1b'));
        for line in table.lines() {
            assert!(line.chars().count() <= width, "{width}: {line}");
        }
    }
    let colour = report.table(Style { colour: true, width: 100 });
    assert!(colour.contains("\x1b[32m✓ yes"));
}

#[test]
fn what_the_kernel_says_can_not_move_the_cursor() {
    let report = Host {
        canaries: [failed("bad\x1b[2J\rnews\nhere"), Canary::Passed, Canary::Passed],
        ..Host::with_everything()
    }
    .report();
    let table = plain(&report, 100);
    assert!(!table.contains(['\x1b', '\r']) && table.contains("bad[2J news here"));
}

#[test]
fn a_hook_that_this_kernel_lacks_is_shown_with_what_that_comes_to() {
    let report = Host::with_everything().report();
    assert_eq!(report.tier, Some(Tier::Lsm));
    let table = plain(&report, 120);
    let line = table.lines().find(|line| line.contains("newer_hook")).unwrap();
    assert!(line.contains("– absent"), "{line}");
    let words: Vec<&str> = table.split_whitespace().collect();
    assert!(words.join(" ").contains("without it nothing: this kernel can not do it"), "{table}");
    let json: serde_json::Value = serde_json::from_str(&output::json(&report).unwrap()).unwrap();
    assert_eq!(json["hooks"][2]["state"], "absent");
    assert_eq!(json["hooks"][2]["without_it"], "nothing: this kernel can not do it");
}

#[test]
fn json_and_yaml_say_the_same() {
    let report = Host::with_everything().report();
    let json: serde_json::Value = serde_json::from_str(&output::json(&report).unwrap()).unwrap();
    let yaml: serde_json::Value = serde_saphyr::from_str(&output::yaml(&report).unwrap()).unwrap();
    assert_eq!(json, yaml);
    assert_eq!(json["tier"], "lsm");
    assert_eq!(json["enforces"], true);
    assert_eq!(json["tiers"][0]["state"], "yes");
    assert_eq!(json["probes"][0]["needed_by"], serde_json::json!(["lsm", "trace", "observe"]));
    assert_eq!(json["coverage"][0]["cover"], "refused");
}
