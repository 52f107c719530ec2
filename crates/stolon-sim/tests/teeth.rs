//! A guard is taken away, and the simulator must notice within so many seeds; with the guard in its place the same seed
//! breaks nothing.

use stolon_sim::{Guard, Trace, run, run_without};

/// How many seeds it may take.
const PATIENCE: u64 = 240;

fn is_missed(guard: Guard) {
    for seed in 1..=PATIENCE {
        let scenario = guard.scenario(seed);
        if let Some(found) = run_without(guard, &scenario, Trace::Off).violation {
            let guarded = run(&scenario, Trace::Off).violation;
            assert_eq!(guarded, None, "seed {seed} breaks something with the guard, too");
            println!("without {guard:?} seed {seed} breaks {:?}: {}", found.invariant, found.sentence);
            return;
        }
    }
    panic!("{PATIENCE} seeds broke nothing without {guard:?}");
}

macro_rules! teeth {
    ($($name:ident: $guard:ident;)*) => {$(
        #[test]
        fn $name() {
            is_missed(Guard::$guard);
        }
    )*};
}

teeth! {
    the_fence_before_a_promotion_is_missed: FenceBeforePromote;
    the_admission_gate_is_missed: AdmissionGate;
    the_highest_position_is_missed: HighestPosition;
    the_compare_and_put_is_missed: CompareAndPut;
    the_lock_out_of_a_deposed_primary_is_missed: DeposedPrimary;
    the_acknowledgement_of_proxies_is_missed: ProxyAcknowledgement;
    the_first_round_is_missed: FirstRoundOnlyWatches;
    the_compensation_of_gaps_is_missed: GapCompensation;
    the_warrant_for_destruction_is_missed: DestroyWarrant;
    the_start_gate_is_missed: StartGate;
    the_pause_is_missed: Pause;
    the_guard_against_a_store_that_goes_back_is_missed: Rollback;
    the_answer_to_a_challenge_is_missed: Answer;
    the_end_of_the_old_primary_is_missed: EndOfTheOldPrimary;
    the_difference_between_a_refusal_and_silence_is_missed: OnlyRefusals;
    the_difference_between_a_pledge_and_silence_is_missed: Pledge;
    the_note_of_a_pledge_is_missed: PledgeNote;
    the_end_of_a_voucher_is_missed: VoucherEnds;
    the_lease_of_a_primary_that_is_cut_off_is_missed: Lease;
    the_fence_of_a_primary_that_is_replaced_while_it_works_is_missed: ClientsOut;
    the_gate_of_a_server_that_is_taken_over_is_missed: FoundGate;
    the_end_of_a_deposed_primary_whose_disk_hangs_is_missed: DeposedOnHungDisk;
    the_address_that_a_failing_lookup_leaves_is_missed: NameKeepsAddress;
    the_number_of_those_that_are_compared_is_missed: EnoughToCompare;
    the_stop_before_standbys_are_compared_is_missed: StopsReceiving;
    the_quorum_before_the_present_one_is_missed: JointQuorums;
    the_proof_that_nothing_was_acknowledged_is_missed: FormerIsComplete;
}
