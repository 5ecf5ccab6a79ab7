//! The client libraries in `clients/`, against real services: one list of behaviours for all of them
//! (`client_libraries/behaviours.rs`), crowds that go through every fault at once (`client_libraries/crowds.rs`), and the packages
//! (`client_libraries/packages.rs`).

mod behaviours;
mod crowds;
mod driver;
mod packages;

/// One test for each library and behaviour.
macro_rules! behaviours {
    ($($module:ident::$behaviour:ident,)*) => {
        mod in_javascript {
            $(#[tokio::test]
            async fn $behaviour() {
                super::$module::$behaviour(super::driver::Library::JavaScript).await;
            })*
        }
        mod in_python {
            $(#[tokio::test]
            async fn $behaviour() {
                super::$module::$behaviour(super::driver::Library::Python).await;
            })*
        }
    };
}

behaviours! {
    behaviours::it_joins_sends_and_is_given_each_message_once_in_order,
    behaviours::what_is_sent_while_away_is_stored_once_and_in_order_when_it_is_back,
    behaviours::each_message_is_stored_once_however_often_the_connection_is_cut,
    behaviours::a_connection_that_died_in_silence_is_noticed,
    behaviours::a_dead_connector_is_left_for_the_next_address,
    behaviours::what_the_log_does_not_keep_any_more_is_told_as_lost,
    behaviours::a_refusal_that_is_final_is_told_and_not_repeated,
    behaviours::a_message_that_is_too_large_fails_and_the_others_go_on,
    behaviours::a_drained_connector_is_left_without_a_loss_or_a_leave,
    behaviours::it_lists_members_and_reads_the_history_page_by_page,
    behaviours::who_types_is_told_to_those_who_are_there_and_to_nobody_later,
    behaviours::with_a_storage_a_program_that_starts_again_goes_on_where_it_was,
    behaviours::a_loop_that_begins_after_the_join_is_given_what_was_replayed,
    behaviours::two_programs_with_one_storage_do_not_replace_each_other_for_ever,
    behaviours::lost_data_of_the_store_is_told_and_the_client_goes_on,
    behaviours::a_token_is_refreshed_before_it_expires_and_asked_for_again_when_it_is_refused,
    behaviours::with_a_token_that_names_the_channel_nobody_sees_it_leave_and_it_misses_nothing,
    behaviours::over_tls_it_does_the_same,
    crowds::through_cuts_kills_restarts_and_a_failover_each_message_is_seen_once_in_order_or_told_lost,
    crowds::behind_haproxy_each_message_is_seen_once_in_order_or_told_lost,
    crowds::behind_nginx_each_message_is_seen_once_in_order_or_told_lost,
    crowds::a_thousand_reconnects_cost_no_memory,
}
