//! Runs the models.

use tidemill_server_models::{polls, waits};

macro_rules! models {
    ($($module:ident::$model:ident;)*) => {
        $(
            #[test]
            fn $model() {
                $module::$model();
            }
        )*
    };
}

models! {
    polls::tasks_beside_deadlines;
    polls::tasks_beside_dropped_polls;
    polls::reservations_beside_deadlines;
    polls::leaving_beside_tasks;
    polls::a_stop_beside_polls;
    waits::history_grows_beside_waits;
    waits::answers_beside_a_reload_and_a_stop;
}
