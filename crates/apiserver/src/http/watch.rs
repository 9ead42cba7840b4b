//! Watches: changes as a stream of JSON lines, with the objects there are first where the client asks for them.
//! Never buffers for a slow client: it is told that its version expired.

use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures::{Stream, stream};
use http::{HeaderValue, StatusCode, header::CONTENT_TYPE};
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{
    query::Query,
    respond::{Form, included, metadata_only},
};
use crate::{
    meta::Object,
    resource::Resource,
    select::Filter,
    server::Core,
    status::ApiError,
    store::{Change, Cursor, Expired},
    table,
    validation::FieldErrors,
    view,
};

/// How long a watch lasts without `timeoutSeconds`.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1800);
/// How often a quiet watch tells where it is.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);

struct Watch {
    core: Arc<Core>,
    resource: Arc<Resource>,
    filter: Filter,
    form: Form,
    include: String,
    columns_sent: bool,
    cursor: Cursor,
    lines: VecDeque<Bytes>,
    done: bool,
}

/// Starts a watch.
pub(crate) fn start(
    core: &Arc<Core>,
    closing: CancellationToken,
    resource: Arc<Resource>,
    filter: Filter,
    form: Form,
    query: &Query,
) -> Result<Response, ApiError> {
    let initial = query.flag("sendInitialEvents");
    check_initial_events(query, initial, &resource)?;
    let bookmarks = query.flag("allowWatchBookmarks");
    let asked = query.resource_version()?;
    let timeout =
        query.timeout_seconds()?.filter(|seconds| *seconds > 0).map_or(DEFAULT_TIMEOUT, Duration::from_secs);

    let mut state = core.lock();
    let from_now = asked == 0 || initial;
    let version = if from_now { state.store.version() } else { asked };
    let cursor = state.store.follow(&resource.storage, version);
    let current: Vec<Arc<Object>> = if from_now {
        let listed = state.store.list(&resource.storage, filter.namespace.as_deref());
        listed.filter(|object| filter.matches(object)).cloned().collect()
    } else {
        Vec::new()
    };
    drop(state);

    let include = query.text("includeObject").to_owned();
    let mut watch = Watch {
        core: Arc::clone(core),
        resource,
        filter,
        form,
        include,
        columns_sent: false,
        cursor,
        lines: VecDeque::new(),
        done: false,
    };
    // sendInitialEvents=false asks for changes only, whatever the version.
    if query.text("sendInitialEvents") != "false" {
        for object in &current {
            watch.push("ADDED", object);
        }
    }
    if initial && bookmarks {
        watch.push_bookmark(true);
    }
    let body = Body::from_stream(watch.lines(Instant::now() + timeout, bookmarks, closing));
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

fn check_initial_events(query: &Query, initial: bool, resource: &Resource) -> Result<(), ApiError> {
    let matching = query.text("resourceVersionMatch");
    let mut errors = FieldErrors::default();
    if initial && matching != "NotOlderThan" {
        errors.forbidden(
            "resourceVersionMatch",
            "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        );
    } else if !matching.is_empty() && query.text("sendInitialEvents").is_empty() {
        errors.forbidden(
            "resourceVersionMatch",
            "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        );
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::Invalid {
        group: "meta.k8s.io".to_owned(),
        kind: "ListOptions".to_owned(),
        name: resource.plural.clone(),
        errors,
    })
}

impl Watch {
    fn lines(
        self,
        deadline: Instant,
        bookmarks: bool,
        closing: CancellationToken,
    ) -> impl Stream<Item = Result<Bytes, Infallible>> {
        let mut ticks = interval_at(Instant::now() + BOOKMARK_EVERY, BOOKMARK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        stream::unfold((self, ticks, closing), move |(mut watch, mut ticks, closing)| async move {
            loop {
                if let Some(line) = watch.lines.pop_front() {
                    return Some((Ok(line), (watch, ticks, closing)));
                }
                if watch.done {
                    return None;
                }
                watch.read_changes();
                if !watch.lines.is_empty() || watch.done {
                    continue;
                }
                tokio::select! {
                    alive = watch.cursor.changed() => watch.done = !alive,
                    () = sleep_until(deadline) => watch.end(bookmarks),
                    () = closing.cancelled() => watch.done = true,
                    _ = ticks.tick(), if bookmarks => watch.push_bookmark(false),
                }
            }
        })
    }

    fn read_changes(&mut self) {
        let changes = self.core.lock().store.advance(&mut self.cursor);
        match changes {
            Ok(changes) => changes.iter().for_each(|change| self.push_change(change)),
            Err(expired) => self.push_expired(expired),
        }
    }

    /// What a change is to this watch: an object may enter or leave its selection by changing.
    fn push_change(&mut self, change: &Change) {
        let before = change.old.as_ref().is_some_and(|object| self.filter.matches(object));
        let after = !change.removed && self.filter.matches(&change.new);
        match (before, after) {
            (false, true) => self.push("ADDED", &change.new),
            (true, true) => self.push("MODIFIED", &change.new),
            (true, false) if change.removed => self.push("DELETED", &change.new),
            (true, false) => {
                // The last state that was selected, at the version at which it left.
                let mut last = change.old.as_ref().map(|old| Object::clone(old)).unwrap_or_default();
                last["metadata"]["resourceVersion"] = change.version.to_string().into();
                self.push("DELETED", &Arc::new(last));
            }
            (false, false) => {}
        }
    }

    fn push(&mut self, kind: &str, object: &Arc<Object>) {
        let object = view::present(&self.resource, object);
        match self.form {
            Form::Object => self.push_line(kind, &object),
            Form::Metadata => self.push_line(kind, &metadata_only(&object)),
            Form::Table => {
                let now = self.core.now();
                let metadata = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
                let mut row = table::render(
                    &self.resource,
                    std::slice::from_ref(&object),
                    metadata,
                    now,
                    &self.include,
                );
                if std::mem::replace(&mut self.columns_sent, true) {
                    row["columnDefinitions"] = Value::Null;
                }
                self.push_line(kind, &row);
            }
        }
    }

    fn push_bookmark(&mut self, initial_end: bool) {
        let mut object = json!({
            "kind": self.resource.kind,
            "apiVersion": self.resource.api_version(),
            "metadata": {"resourceVersion": self.cursor.version().to_string(), "creationTimestamp": null},
        });
        if initial_end {
            object["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match self.form {
            Form::Object => object,
            Form::Metadata => metadata_only(&object),
            Form::Table => json!({
                "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"],
                "columnDefinitions": null,
                "rows": [{"cells": [], "object": included(&object, &self.include)}],
            }),
        };
        self.push_line("BOOKMARK", &object);
    }

    fn push_expired(&mut self, expired: Expired) {
        let text = format!("too old resource version: {} ({})", expired.asked, expired.current);
        self.push_line("ERROR", &ApiError::Expired(text).status());
        self.done = true;
    }

    fn push_line(&mut self, kind: &str, object: &Value) {
        // Objects are JSON values: encoding them cannot fail.
        let mut line = format!("{{\"type\":\"{kind}\",\"object\":{object}}}");
        line.push('\n');
        self.lines.push_back(line.into());
    }

    fn end(&mut self, bookmark: bool) {
        if bookmark {
            self.push_bookmark(false);
        }
        self.done = true;
    }
}
