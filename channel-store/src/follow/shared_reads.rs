//! Readers of one channel that ask the same of its log share one answer.

use crate::error::StoreError;
use crate::page::LogPage;
use crate::publication::Position;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use tokio::sync::OnceCell;

type Answer = Result<Arc<LogPage>, StoreError>;
/// A position, and the number of publications after it.
type Question = (Position, usize);

/// The reads of one channel for single readers. Of equal reads only one is under way at a time.
#[derive(Debug, Default)]
pub struct SharedReads {
    under_way: Mutex<HashMap<Question, Weak<OnceCell<Answer>>>>,
}

impl SharedReads {
    /// Asks for so many publications after a position, or waits for the answer to the same question. That answer is dropped
    /// when nobody waits for it any more.
    ///
    /// # Errors
    /// Those of `ask`.
    pub async fn share(
        &self,
        question: (Position, usize),
        ask: impl Future<Output = Result<Arc<LogPage>, StoreError>>,
    ) -> Result<Arc<LogPage>, StoreError> {
        let cell = self.join(&question);
        cell.get_or_init(|| ask).await.clone()
    }

    fn join(&self, question: &Question) -> Arc<OnceCell<Answer>> {
        let mut under_way = self.under_way.lock();
        if let Some(cell) = under_way.get(question).and_then(Weak::upgrade) {
            return cell;
        }
        // Nobody waits any more for the answers that are removed here.
        under_way.retain(|_, cell| cell.strong_count() > 0);
        let cell = Arc::default();
        under_way.insert(question.clone(), Arc::downgrade(&cell));
        cell
    }
}
