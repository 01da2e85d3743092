//! The cases.

mod attach;
mod damage;
mod filters;
mod found;
mod keeper;
mod lies;
mod life;
mod raw;
mod user;

/// A case: its name and what it does.
pub type Case = (&'static str, fn());

macro_rules! cases {
    ($($group:ident { $($case:ident),+ $(,)? })+) => {
        /// All of them.
        pub const ALL: &[Case] = &[
            $($((concat!(stringify!($group), "::", stringify!($case)), $group::$case),)+)+
        ];
    };
}

cases! {
    attach {
        one_stack_per_user_and_name,
        the_memory_is_sealed_and_ready,
        xdp_when_asked,
        an_unprivileged_user_gets_an_own_keeper,
        versions_and_layouts_must_agree,
        quotas,
        reports,
        the_memory_is_the_proof,
    }
    filters {
        the_proof_counts,
        stacks_keep_to_their_own,
        addresses_are_followed,
    }
    found {
        the_next_daemon_has_it_all,
        what_ended_meanwhile_is_removed,
        another_build_leaves_it_alone,
        a_keeper_can_offer_nothing_else,
        only_a_daemon_can_call_a_keeper,
        daemons_and_keepers_die_in_turn,
        a_stack_without_keeper_is_inherited,
        who_has_not_come_back_is_not_lost,
        a_handover_is_finished_once,
    }
    lies {
        nonsense_ends_only_its_own_session,
        floods_stall_nobody,
        clients_that_vanish,
    }
    damage {
        messages_are_cut_at_every_byte,
        messages_are_changed_at_every_byte,
        descriptors_of_every_wrong_kind,
        keepers_are_lied_to,
    }
    keeper {
        an_endpoint_ends_with_its_kernel_socket,
        what_a_process_held_alone_ends_with_it,
        events_of_kernel_sockets_are_reported,
        parked_sockets_are_held,
    }
    life {
        a_killed_process_is_noticed,
        a_killed_keeper_is_replaced,
        v_nics_follow_the_interfaces,
        an_idle_stack_costs_nothing,
        a_killed_daemon_leaves_the_interfaces_clean,
        sigterm_ends_in_order,
        one_daemon_per_socket,
        numbers_are_unique_in_a_namespace,
        keepers_start_from_anywhere,
    }
    user {
        stacks_without_v_nics,
        what_takes_privilege_is_refused,
        one_namespace_only,
        one_user_only,
        its_keepers_are_replaced,
        who_stays_is_a_client_until_its_end,
    }
}
