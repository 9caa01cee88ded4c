//! Whose turn it is. Clients that take all places, or ask for long listings all the time, keep none out that may change what runs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{Request, State as Of};
use axum::middleware::Next;
use axum::response::Response;
use tokio::sync::Semaphore;

use crate::commit::api::{Peer, may_change};

/// Connections that a user may have, and that all may have together who may only look.
pub(super) const CLIENTS: usize = 1024;
/// Questions that are answered at once of those who may change what runs, of others at the socket, and over TCP.
const TURNS: [usize; 3] = [2, 1, 1];
/// All of them together.
pub(super) const LISTINGS: usize = TURNS[0] + TURNS[1] + TURNS[2];

/// Of clients over TCP nobody knows who they are.
pub(super) const STRANGER: Peer = Peer(u32::MAX);

/// Connections, by user.
#[derive(Default)]
pub(super) struct Places(Mutex<HashMap<u32, usize>>);

/// A place; given back when dropped.
pub(super) struct Place {
    places: Arc<Places>,
    user: u32,
}

impl Places {
    /// One for this user, if there is one.
    pub(super) fn take(self: &Arc<Self>, peer: Peer) -> Option<Place> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Peer(user) = peer;
        let others = taken.iter().filter(|(user, _)| !may_change(Peer(**user))).map(|(_, count)| count);
        if !may_change(peer) && others.sum::<usize>() >= CLIENTS {
            return None;
        }
        let count = taken.entry(user).or_default();
        if *count >= CLIENTS {
            return None;
        }
        *count += 1;
        Some(Place { places: self.clone(), user })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        let left = taken.get_mut(&self.user).map_or(0, |count| {
            *count = count.saturating_sub(1);
            *count
        });
        if left == 0 {
            taken.remove(&self.user);
        }
    }
}

/// Who is answered now.
#[derive(Clone)]
pub(super) struct Turns([Arc<Semaphore>; 3]);

impl Turns {
    pub(super) fn new() -> Self {
        Self(TURNS.map(|turns| Arc::new(Semaphore::new(turns))))
    }
}

/// Has a question wait for its turn among those of its kind.
pub(super) async fn wait(
    Of(Turns([change, look, remote])): Of<Turns>,
    request: Request,
    next: Next,
) -> Response {
    let turns = match request.extensions().get::<Peer>() {
        Some(&peer) if may_change(peer) => change,
        Some(&peer) if peer != STRANGER => look,
        _ => remote,
    };
    let _turn = turns.acquire().await;
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_may_only_look_leave_places_for_others() {
        let places = Arc::new(Places::default());
        let mut first: Vec<_> = (0..CLIENTS - 10).map(|_| places.take(Peer(1001)).unwrap()).collect();
        let second: Vec<_> = (0..10).map(|_| places.take(Peer(1002)).unwrap()).collect();
        assert!(places.take(Peer(1001)).is_none() && places.take(Peer(1003)).is_none());
        assert!(places.take(STRANGER).is_none());
        let root: Vec<_> = (0..CLIENTS).map(|_| places.take(Peer(0)).unwrap()).collect();
        assert!(places.take(Peer(0)).is_none());
        first.pop();
        assert!(places.take(Peer(1003)).is_some());
        drop((first, second, root));
        assert!(places.0.lock().unwrap().is_empty());
    }
}
