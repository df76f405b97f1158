package rewardservice

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "example.com/rewardservice/rewardservicev1"
)

const (
	defaultHeartbeat = 15 * time.Second
	silentHeartbeats = 3
)

var (
	discard    = slog.New(slog.DiscardHandler)
	errSilence = errors.New("silence")
)

// WatchOption changes what [Client.Watch] does.
type WatchOption func(*watch)

// GiveUpAfter ends a watch with the last error once connections have failed for so long. Without it a watch tries for
// ever.
func GiveUpAfter(limit time.Duration) WatchOption {
	return func(w *watch) { w.giveUpAfter = limit }
}

// Watch yields what happens to the selected orders (none selected, or a nil request: all of the client's), in order and
// once:
//
//	for event, err := range client.Watch(ctx, &pb.StreamOrderUpdatesRequest{ResumeToken: stored}) {
//		if err != nil {
//			return err
//		}
//		…
//	}
//
// It begins after the request's ResumeToken, or else with a snapshot of the orders as they are, unless Start says
// otherwise. It survives restarts, cut and silent connections: it connects again with the last token and leaves out what
// came before. Store the token of the last event that was dealt with, to go on after a restart of your own program. A
// token that the server can't continue is answered with [Reset] and a snapshot.
//
// It ends with an [*Error] that no new connection mends, when ctx ends (errors.Is finds why), when the loop is left, and
// with UntilTerminal (which needs ids) once every selected order has ended. Deal with events swiftly, or hand them to
// other goroutines: the server ends a stream that isn't read for a minute (the watch goes on with the next).
//
// HeartbeatInterval is 15 s unless set (1 to 60 s); a connection silent for three times as long is left for a new one.
// Ranging again over the same sequence is a new watch.
func (c *Client) Watch(
	ctx context.Context, request *pb.StreamOrderUpdatesRequest, options ...WatchOption,
) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		w := &watch{client: c, request: cloned(request), rewards: c.rewards}
		for _, option := range options {
			option(w)
		}
		defer w.closeConnection()
		w.run(ctx, yield)
	}
}

// UntilTerminal is the request for a watch of some orders, by their ClientOrderIds, that ends once all of them have ended.
// Those that aren't there yet are awaited.
func UntilTerminal(clientOrderIDs ...string) *pb.StreamOrderUpdatesRequest {
	return &pb.StreamOrderUpdatesRequest{ClientOrderIds: clientOrderIDs, UntilTerminal: true}
}

// watch is what has to be remembered from one connection to the next.
type watch struct {
	client       *Client
	request      *pb.StreamOrderUpdatesRequest
	giveUpAfter  time.Duration
	silence      time.Duration
	token        string
	inSnapshot   bool
	seen         versions
	failures     int
	failingSince time.Time
	shown        string                 // the key or token of the last call
	refusal      *Error                 // of that, until another one is taken
	rewards      pb.RewardServiceClient // over the client's connection, or over own
	own          *grpc.ClientConn
}

func (w *watch) run(ctx context.Context, yield func(Event, error) bool) {
	if w.request.GetHeartbeatInterval() == nil {
		w.request.HeartbeatInterval = durationpb.New(defaultHeartbeat)
	}
	// At least a second each: what to say about a shorter interval is up to the server.
	w.silence = silentHeartbeats * max(time.Second, w.request.GetHeartbeatInterval().AsDuration())
	switch w.request.GetStart() {
	case pb.StreamStart_STREAM_START_UNSPECIFIED, pb.StreamStart_STREAM_START_AFTER:
		w.token = w.request.GetResumeToken()
	}
	for {
		err := w.stream(ctx, yield)
		if err == nil {
			return
		}
		if w.mayShowAnother(err) {
			w.client.log.Info("the key or token was refused; asking for another")
			continue
		}
		if w.mustStartOver(err) {
			w.client.log.Warn("the log of orders can't be continued; a snapshot follows", "reason", err.Reason)
			if !yield(Event{Kind: Reset, Reason: err.Reason}, nil) {
				return
			}
			continue
		}
		if err := w.pause(ctx, err); err != nil {
			yield(Event{}, err)
			return
		}
	}
}

// stream makes one call and yields what it brings. It returns why the call ended; nil: the watch is over.
func (w *watch) stream(ctx context.Context, yield func(Event, error) bool) *Error {
	key, err := w.client.keyFor(ctx)
	switch {
	case err != nil:
		return err
	case w.refusal != nil && key == w.shown:
		return w.refusal
	}
	w.shown = key
	callCtx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(w.client.alive, func() { cancel(ErrClosed) })()
	silent := time.AfterFunc(w.silence, func() { cancel(errSilence) })
	defer silent.Stop()
	stream, failure := w.rewards.StreamOrderUpdates(signed(callCtx, key), w.next())
	for failure == nil {
		var message *pb.StreamOrderUpdatesResponse
		if message, failure = stream.Recv(); failure != nil {
			break
		}
		silent.Stop() // the caller may take its time with an event
		w.refusal = nil
		if w.failures > 0 {
			w.failures = 0
			w.client.log.Info("the stream of orders is back")
		}
		if event, isNews := w.take(message); isNews && !yield(event, nil) {
			return nil
		}
		silent.Reset(w.silence)
	}
	switch {
	case ctx.Err() == nil && errors.Is(context.Cause(callCtx), errSilence):
		// The connection may be dead without either side knowing: the next stream gets a new one, not this one.
		w.leaveConnection()
		return unavailable(fmt.Sprintf("nothing came for %v, not even a heartbeat", w.silence))
	case errors.Is(failure, io.EOF) && w.request.GetUntilTerminal():
		return nil
	case errors.Is(failure, io.EOF):
		return unavailable("the stream was ended on the way")
	case stream == nil:
		return w.client.errorFrom(ctx, failure, nil)
	default:
		return w.client.errorFrom(ctx, failure, stream.Trailer())
	}
}

// next is the request for the next call: behind the last token, if there is one.
func (w *watch) next() *pb.StreamOrderUpdatesRequest {
	request := proto.CloneOf(w.request)
	if w.token != "" {
		request.Start, request.ResumeToken = pb.StreamStart_STREAM_START_AFTER, w.token
	}
	switch request.GetStart() {
	case pb.StreamStart_STREAM_START_UNSPECIFIED, pb.StreamStart_STREAM_START_SNAPSHOT:
		w.inSnapshot = true
	default:
		w.inSnapshot = false
	}
	return request
}

// take is the event for a message; none for repeats and for kinds that this version doesn't know.
func (w *watch) take(message *pb.StreamOrderUpdatesResponse) (Event, bool) {
	switch message := message.GetMessage().(type) {
	case *pb.StreamOrderUpdatesResponse_Update:
		order, token := message.Update.GetOrder(), message.Update.GetResumeToken()
		w.advance(token)
		return Event{Kind: Updated, Order: order, ResumeToken: token}, w.seen.isNew(order)
	case *pb.StreamOrderUpdatesResponse_Snapshot:
		order := message.Snapshot.GetOrder()
		return Event{Kind: Snapshot, Order: order}, w.seen.isNew(order)
	case *pb.StreamOrderUpdatesResponse_SnapshotEnd:
		w.inSnapshot = false
		token := message.SnapshotEnd.GetResumeToken()
		w.advance(token)
		return Event{Kind: SnapshotEnd, ResumeToken: token}, true
	case *pb.StreamOrderUpdatesResponse_Heartbeat:
		token := message.Heartbeat.GetResumeToken()
		w.advance(token)
		return Event{Kind: Heartbeat, ResumeToken: token}, !w.inSnapshot
	default:
		return Event{}, false
	}
}

func (w *watch) advance(token string) {
	// Until the snapshot is complete no token stands for it: continuing there would skip the rest of it.
	if token != "" && !w.inSnapshot {
		w.token = token
	}
}

// mayShowAnother tells whether the service refused a key or token that there may be a newer one of; once until it takes
// one.
func (w *watch) mayShowAnother(err *Error) bool {
	if err.Code != codes.Unauthenticated || err.cause != nil || !w.client.keyMayChange || w.refusal != nil {
		return false
	}
	w.refusal = err
	return true
}

// mustStartOver tells whether the token is lost; then the next stream begins with a snapshot.
func (w *watch) mustStartOver(err *Error) bool {
	if err.Code != codes.OutOfRange || w.token == "" {
		return false
	}
	w.token = ""
	w.request.Start, w.request.ResumeToken = pb.StreamStart_STREAM_START_SNAPSHOT, ""
	// After a restore from a backup versions count again from an earlier one.
	w.seen = versions{}
	return true
}

// pause waits before the next call. It returns the error to end with when there should be none.
func (w *watch) pause(ctx context.Context, err *Error) *Error {
	if ctx.Err() != nil {
		return contextError(ctx.Err())
	}
	if w.failures == 0 {
		w.failingSince = time.Now()
	}
	w.failures++
	pause := w.client.pace.after(w.failures, err.RetryAfter)
	switch {
	case !isMendable(err),
		err.isDoubtful() && w.failures >= mostTries,
		w.giveUpAfter > 0 && time.Since(w.failingSince)+pause > w.giveUpAfter:
		return err
	}
	w.client.log.Info("the stream of orders was lost", "error", err, "pause", pause)
	return w.client.sleep(ctx, pause)
}

// isMendable tells whether a new connection may mend it. A stream has no deadline of ours, so a deadline that isn't the
// context's is a proxy's.
func isMendable(err *Error) bool {
	return err.isRetryable() ||
		err.Code == codes.DeadlineExceeded ||
		err.Code == codes.ResourceExhausted && err.Reason == "READER_TOO_SLOW"
}

// leaveConnection makes the next stream begin on a connection of its own.
func (w *watch) leaveConnection() {
	w.closeConnection()
	w.own, w.rewards = nil, w.client.rewards
	// It can't fail: the arguments were good for the client's own connection, and nothing is dialled before a call.
	if conn, err := w.client.dial(); err == nil {
		w.own, w.rewards = conn, pb.NewRewardServiceClient(conn)
	}
}

func (w *watch) closeConnection() {
	if w.own != nil {
		_ = w.own.Close()
	}
}

func unavailable(message string) *Error {
	return &Error{Code: codes.Unavailable, Message: message}
}

// versions remembers the last version of each order that was shown, of at least the remembered orders seen last. A token
// resumes exactly, so repeats come from the last connection only.
type versions struct {
	recent, former map[string]int64
}

const remembered = 32_768

func (v *versions) isNew(order *pb.Order) bool {
	id := order.GetOrderId()
	if order.GetVersion() <= max(v.recent[id], v.former[id]) {
		return false
	}
	if v.recent == nil || len(v.recent) >= remembered {
		v.former, v.recent = v.recent, make(map[string]int64)
	}
	v.recent[id] = order.GetVersion()
	return true
}
