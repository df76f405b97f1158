package rewardservice

import (
	"fmt"
	"log/slog"

	pb "example.com/rewardservice/rewardservicev1"
)

// Kind says what an [Event] tells.
type Kind int

const (
	// Updated: an order changed. Order is whole, as of its version; ResumeToken continues after it.
	Updated Kind = iota + 1
	// Snapshot: an order as it is, at the beginning of a stream. It has no token: SnapshotEnd has.
	Snapshot
	// SnapshotEnd: the snapshot is complete; ResumeToken continues after it.
	SnapshotEnd
	// Heartbeat: nothing happened for a while. Everything before ResumeToken was searched; it continues there.
	Heartbeat
	// Reset: the log couldn't be continued at the last token. Updates may be missing, and a snapshot follows. Forget
	// stored tokens. With the Reason LOG_REWOUND (the server was restored from a backup) orders may come again with
	// versions that were seen before, and other content; RESUME_TOKEN_EXPIRED says that the token was too old.
	Reset
)

// String is the kind's name.
func (k Kind) String() string {
	switch k {
	case Updated:
		return "Updated"
	case Snapshot:
		return "Snapshot"
	case SnapshotEnd:
		return "SnapshotEnd"
	case Heartbeat:
		return "Heartbeat"
	case Reset:
		return "Reset"
	default:
		return fmt.Sprintf("Kind(%d)", int(k))
	}
}

// Event is what [Client.Watch] yields.
type Event struct {
	Kind Kind
	// Order is set on Updated and Snapshot.
	Order *pb.Order
	// ResumeToken is set on Updated, SnapshotEnd and Heartbeat. Store it together with what was made of the event.
	ResumeToken string
	// Reason is set on Reset.
	Reason string
}

// String tells of the order only its id, version and state: printed as a whole, it would show its cards.
func (e Event) String() string {
	switch {
	case e.Order != nil:
		return fmt.Sprintf("%v(%s v%d %s)", e.Kind, e.Order.GetOrderId(), e.Order.GetVersion(), StateName(e.Order.GetState()))
	case e.Kind == Reset:
		return fmt.Sprintf("%v(%s)", e.Kind, e.Reason)
	default:
		return e.Kind.String()
	}
}

// LogValue keeps cards out of structured logs.
func (e Event) LogValue() slog.Value {
	return slog.StringValue(e.String())
}
