package com.rewardservice.client;

import com.rewardservice.v1.Order;
import com.rewardservice.v1.RewardServiceGrpc;
import com.rewardservice.v1.StreamOrderUpdatesRequest;
import com.rewardservice.v1.StreamOrderUpdatesResponse;
import com.rewardservice.v1.StreamStart;
import io.grpc.CallOptions;
import io.grpc.ClientCall;
import io.grpc.Context;
import io.grpc.Metadata;
import io.grpc.Status;
import java.time.Duration;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.NoSuchElementException;
import java.util.Objects;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;

/**
 * What happens to orders, in order and once, over as many connections as it takes. Made by {@link RewardClient#watch}.
 *
 * <p>{@link #hasNext} waits for the next event. It is false once the watch was closed, or with {@code until_terminal}
 * when every selected order has ended; otherwise a watch goes on for ever. It throws {@link RewardException} for an
 * error that no new connection mends, when the client was closed, and when the thread is interrupted.
 *
 * <p>One thread reads; any other may {@link #close} it.
 */
public final class Watch implements Iterator<Event>, AutoCloseable {
    private static final System.Logger LOG = System.getLogger("com.rewardservice.client");
    private static final Duration HEARTBEAT = Duration.ofSeconds(15);
    private static final int SILENT_HEARTBEATS = 3;

    /** What the server takes; it refuses others, and has to be given the time to. */
    private static final long LEAST_HEARTBEAT = TimeUnit.SECONDS.toNanos(1);

    private static final long MOST_HEARTBEAT = TimeUnit.SECONDS.toNanos(60);

    /**
     * What a new connection gets for its first word, at least: names are looked up, TLS is agreed upon, and a server
     * that is overrun isn't helped by a client that comes again and again.
     */
    private static final long FIRST_WORD = TimeUnit.SECONDS.toNanos(10);

    /** Orders whose version is remembered. A token resumes exactly, so repeats come from the last connection only. */
    private static final int REMEMBERED = 65_536;

    /** Messages that may lie ready before the reader has taken them. */
    private static final int WINDOW = 16;

    private static final Arrival WAKE = new Arrival(null, null, null, null);

    private final RewardClient client;
    private final Duration giveUpAfter;
    private final long silence;
    private final BlockingQueue<Arrival> mailbox = new LinkedBlockingQueue<>();

    /** Of whoever opened the watch, without the end of what they are doing: only {@link #close} ends it. */
    private final Context context = Context.current().fork();

    private volatile boolean closed;
    private volatile ClientCall<StreamOrderUpdatesRequest, StreamOrderUpdatesResponse> call;

    // What has to be remembered from one connection to the next. Of the reading thread alone, as all that follows.
    private StreamOrderUpdatesRequest request;
    private String token;
    private final Map<String, Long> versions = new LinkedHashMap<>(16, 0.75f, true) {
        private static final long serialVersionUID = 1L;

        @Override
        protected boolean removeEldestEntry(Map.Entry<String, Long> eldest) {
            return size() > REMEMBERED;
        }
    };

    private long patience;
    private boolean inSnapshot;
    private boolean over;
    private int failures;
    private long failingSince;
    private long openAt = System.nanoTime();
    private Event upcoming;
    private String key;

    /** How a stream was refused that nothing came over since, or null, and the key that it was opened with. */
    private RewardException refusal;

    private String refusedKey;

    /** A message or the end of a call, or nothing but a reason to look around. */
    private record Arrival(
            ClientCall<?, ?> call, StreamOrderUpdatesResponse message, Status status, Metadata trailers) {}

    Watch(RewardClient client, StreamOrderUpdatesRequest asked, Duration giveUpAfter) {
        this.client = client;
        this.giveUpAfter = giveUpAfter;
        Duration heartbeat = asked.hasHeartbeatInterval() ? Durations.of(asked.getHeartbeatInterval()) : HEARTBEAT;
        silence = SILENT_HEARTBEATS * Math.max(LEAST_HEARTBEAT, Math.min(MOST_HEARTBEAT, Durations.nanos(heartbeat)));
        request = asked.toBuilder().setHeartbeatInterval(seconds(heartbeat)).build();
        token = continues(asked) ? asked.getResumeToken() : "";
    }

    @Override
    public boolean hasNext() {
        return peek(Long.MAX_VALUE) != null;
    }

    @Override
    public Event next() {
        Event event = peek(Long.MAX_VALUE);
        if (event == null) {
            throw new NoSuchElementException("the watch is over");
        }
        upcoming = null;
        return event;
    }

    /** The next event, or null when there is none any more or none within so many nanoseconds. */
    Event next(long within) {
        Event event = peek(within);
        upcoming = null;
        return event;
    }

    /** Ends the stream. A thread that waits for an event is told that there is none. */
    @Override
    public void close() {
        closed = true;
        cancelCall();
        mailbox.add(WAKE);
        client.forget(this);
    }

    /** Lets the reading thread see that the client was closed. */
    void wake() {
        mailbox.add(WAKE);
    }

    private Event peek(long within) {
        if (upcoming == null) {
            long began = System.nanoTime();
            // Whatever comes is heard from now on: a reader that was away for long finds what lies ready first.
            long heardAt = began;
            while (upcoming == null && !isOver()) {
                long now = System.nanoTime();
                if (now - began >= within) {
                    return null;
                }
                if (call == null && now - openAt >= 0) {
                    open();
                    now = System.nanoTime();
                    heardAt = now;
                }
                var current = call;
                long left = current == null ? openAt - now : heardAt + patience - now;
                Arrival arrival = await(Math.min(left, within - (now - began)));
                if (closed || current == null) {
                    // A pause: whatever came is of a former call.
                    continue;
                }
                if (arrival == null && System.nanoTime() - heardAt >= patience) {
                    upcoming = lose(silent());
                } else if (arrival != null && arrival.call() == current) {
                    heardAt = System.nanoTime();
                    upcoming = arrival.message() != null ? take(current, arrival.message()) : end(arrival);
                }
            }
        }
        return closed ? null : upcoming;
    }

    private boolean isOver() {
        if (!closed && !over && client.isClosed()) {
            finish();
            throw Errors.closed();
        }
        return closed || over;
    }

    private Arrival await(long nanos) {
        try {
            return mailbox.poll(Math.max(0, nanos), TimeUnit.NANOSECONDS);
        } catch (InterruptedException stop) {
            throw Errors.interrupted();
        }
    }

    private void open() {
        key = askForKey();
        if (refusal != null && Objects.equals(key, refusedKey)) {
            finish();
            throw refusal;
        }
        StreamOrderUpdatesRequest.Builder asking = request.toBuilder();
        if (!token.isEmpty()) {
            asking.setStart(StreamStart.STREAM_START_AFTER).setResumeToken(token);
        }
        inSnapshot = token.isEmpty() && beginsWithSnapshot(request);
        patience = Math.max(silence, FIRST_WORD);
        client.connection().endPause();
        context.run(() -> {
            // What arrives is put into the mailbox and no more, which needs no thread of its own.
            var opened = client.connection()
                    .channel(key)
                    .newCall(
                            RewardServiceGrpc.getStreamOrderUpdatesMethod(),
                            CallOptions.DEFAULT.withExecutor(Runnable::run));
            opened.start(new Listener(opened), new Metadata());
            opened.request(WINDOW);
            opened.sendMessage(asking.build());
            opened.halfClose();
            call = opened;
        });
        if (closed) {
            cancelCall();
        }
    }

    private final class Listener extends ClientCall.Listener<StreamOrderUpdatesResponse> {
        private final ClientCall<?, ?> of;

        Listener(ClientCall<?, ?> of) {
            this.of = of;
        }

        @Override
        public void onMessage(StreamOrderUpdatesResponse message) {
            mailbox.add(new Arrival(of, message, null, null));
        }

        @Override
        public void onClose(Status status, Metadata trailers) {
            mailbox.add(new Arrival(of, null, status, trailers));
        }
    }

    /** The event for a message; null for repeats and for kinds that this version doesn't know. */
    private Event take(ClientCall<?, ?> from, StreamOrderUpdatesResponse message) {
        from.request(1);
        patience = silence;
        refusal = null;
        if (failures > 0) {
            failures = 0;
            LOG.log(System.Logger.Level.DEBUG, "the stream is back");
        }
        switch (message.getMessageCase()) {
            case UPDATE:
                advance(message.getUpdate().getResumeToken());
                Order order = message.getUpdate().getOrder();
                return isNew(order) ? new Event.Update(order, message.getUpdate().getResumeToken()) : null;
            case SNAPSHOT:
                Order known = message.getSnapshot().getOrder();
                return isNew(known) ? new Event.Snapshot(known) : null;
            case SNAPSHOT_END:
                inSnapshot = false;
                advance(message.getSnapshotEnd().getResumeToken());
                return new Event.SnapshotEnd(message.getSnapshotEnd().getResumeToken());
            case HEARTBEAT:
                advance(message.getHeartbeat().getResumeToken());
                return inSnapshot ? null : new Event.Heartbeat(message.getHeartbeat().getResumeToken());
            default:
                return null;
        }
    }

    private void advance(String resumeToken) {
        // Until the snapshot is complete no token stands for it: continuing there would skip the rest of it.
        if (!inSnapshot && !resumeToken.isEmpty()) {
            token = resumeToken;
        }
    }

    private boolean isNew(Order order) {
        if (order.getVersion() <= versions.getOrDefault(order.getOrderId(), 0L)) {
            return false;
        }
        versions.put(order.getOrderId(), order.getVersion());
        return true;
    }

    private Event end(Arrival arrival) {
        if (!arrival.status().isOk()) {
            return lose(Errors.of(
                    arrival.status(), arrival.trailers(), arrival.status().asRuntimeException(arrival.trailers())));
        }
        if (request.getUntilTerminal()) {
            finish();
            return null;
        }
        return lose(new RewardException(Status.Code.UNAVAILABLE, "the stream was ended on the way"));
    }

    private RewardException silent() {
        // The connection may be dead without either side knowing: the next stream gets a new one, not this one.
        client.connection().leave();
        return new RewardException(
                Status.Code.UNAVAILABLE,
                "nothing came for " + TimeUnit.NANOSECONDS.toSeconds(patience) + " s, not even a heartbeat");
    }

    /** After a lost stream: plans the next and returns null, or a reset. Throws the error if there should be none. */
    private Event lose(RewardException error) {
        cancelCall();
        long now = System.nanoTime();
        openAt = now;
        if (mustStartOver(error)) {
            String what = "the log can''t be continued ({0}); a snapshot follows";
            LOG.log(System.Logger.Level.WARNING, what, error.getMessage());
            return new Event.Reset(error.reason());
        }
        if (mayHaveNewKey(error)) {
            refusal = error;
            refusedKey = key;
            return null;
        }
        if (failures == 0) {
            failingSince = now;
        }
        failures++;
        long delay = Durations.nanos(client.backoff().delay(failures, error.retryAfter().orElse(Duration.ZERO)));
        if (!isMendable(error)
                || (error.isDoubtful() && failures >= client.backoff().attempts())
                || (giveUpAfter != null && now - failingSince + delay > Durations.nanos(giveUpAfter))) {
            finish();
            throw error;
        }
        LOG.log(System.Logger.Level.DEBUG, "the stream was lost, connecting again soon: {0}", error.getMessage());
        openAt = now + delay;
        return null;
    }

    /**
     * Whether to ask for a key once more: a token may have ended with its stream. The next stream is opened with
     * another one, or else the error is thrown.
     */
    private boolean mayHaveNewKey(RewardException error) {
        return error.code() == Status.Code.UNAUTHENTICATED && refusal == null && client.asksAnew();
    }

    private String askForKey() {
        try {
            return client.connection().key();
        } catch (RuntimeException unavailable) {
            finish();
            throw unavailable;
        }
    }

    /** Whether the token is lost; then the next stream begins with a snapshot. */
    private boolean mustStartOver(RewardException error) {
        if (error.code() != Status.Code.OUT_OF_RANGE || token.isEmpty()) {
            return false;
        }
        token = "";
        request = request.toBuilder().setStart(StreamStart.STREAM_START_SNAPSHOT).clearResumeToken().build();
        // After a restore from a backup versions count again from an earlier one.
        versions.clear();
        return true;
    }

    /** Whether a new connection may mend it. A stream has no deadline of ours, so a deadline is a proxy's. */
    private static boolean isMendable(RewardException error) {
        return error.isRetryable()
                || error.code() == Status.Code.DEADLINE_EXCEEDED
                || (error.code() == Status.Code.RESOURCE_EXHAUSTED && error.reason().equals("READER_TOO_SLOW"));
    }

    private void finish() {
        over = true;
        cancelCall();
        client.forget(this);
    }

    private void cancelCall() {
        var former = call;
        call = null;
        if (former != null) {
            former.cancel("left", null);
        }
    }

    private static boolean continues(StreamOrderUpdatesRequest asked) {
        return asked.getStart() == StreamStart.STREAM_START_UNSPECIFIED
                || asked.getStart() == StreamStart.STREAM_START_AFTER;
    }

    private static boolean beginsWithSnapshot(StreamOrderUpdatesRequest asked) {
        return asked.getStart() == StreamStart.STREAM_START_UNSPECIFIED
                || asked.getStart() == StreamStart.STREAM_START_SNAPSHOT;
    }

    private static com.google.protobuf.Duration seconds(Duration duration) {
        return com.google.protobuf.Duration.newBuilder()
                .setSeconds(duration.getSeconds())
                .setNanos(duration.getNano())
                .build();
    }
}
