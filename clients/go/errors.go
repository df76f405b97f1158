package rewardservice

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "example.com/rewardservice/rewardservicev1"
)

const errorDomain = "rewardservice.v1"

// ErrClosed is what calls and streams of a closed [Client] end with; use errors.Is.
var ErrClosed = errors.New("the client is closed")

// Error is what every call and stream of this package ends with when it fails; use errors.As.
//
// An order whose outcome is unknown is never an error: the call succeeds and the order's state says so. After codes
// Unavailable, DeadlineExceeded and Canceled of CreateOrder the order may exist: call again with the same ClientOrderId.
//
// When the context of a call ended it, errors.Is finds [context.Canceled] or [context.DeadlineExceeded].
type Error struct {
	// Code is the gRPC status code. Canceled is also what a server that is overrun, or a proxy, drops calls with.
	Code codes.Code
	// Reason is the name of a pb.ErrorReason without its prefix, as in "PRODUCT_NOT_FOUND" (see [HasReason]). It is empty
	// when the error wasn't made by the service but on the way to it.
	Reason string
	// Message is one sentence for people.
	Message string
	// Violations names every wrong field of a request.
	Violations []FieldViolation
	// Metadata is what the reason adds.
	Metadata map[string]string
	// RetryAfter is how long the server asked to wait before trying again; 0: it didn't say.
	RetryAfter time.Duration
	// RequestID finds the call in the server's log.
	RequestID string
	// ClientOrderID is the id to try again with; set on errors of CreateOrder.
	ClientOrderID string

	hasRetryInfo bool
	cause        error
}

// FieldViolation is one field of a request that the server refused.
type FieldViolation struct {
	// Field is its path in the request, as in "recipient.phone.number".
	Field string
	// Description says how to mend it.
	Description string
}

// Error is the message with what it takes to find the call again.
func (e *Error) Error() string {
	var text strings.Builder
	text.WriteString(e.Message)
	for _, v := range e.Violations {
		// A server with one complaint makes it the message.
		if !strings.Contains(e.Message, v.Description) {
			fmt.Fprintf(&text, "; %s: %s", v.Field, v.Description)
		}
	}
	tags := []string{e.Reason}
	if e.Reason == "" {
		tags[0] = e.Code.String()
	}
	if e.ClientOrderID != "" {
		tags = append(tags, "client_order_id "+e.ClientOrderID)
	}
	if e.RequestID != "" {
		tags = append(tags, "request "+e.RequestID)
	}
	fmt.Fprintf(&text, " (%s)", strings.Join(tags, ", "))
	return text.String()
}

// Unwrap is why the call ended where that wasn't the server's doing: the context's error, or [ErrClosed].
func (e *Error) Unwrap() error {
	return e.cause
}

// GRPCStatus is the error's code and message, for status.FromError and status.Code of gRPC.
func (e *Error) GRPCStatus() *status.Status {
	return status.New(e.Code, e.Message)
}

// HasReason tells whether an error is an [*Error] with a reason of the contract.
func HasReason(err error, reason pb.ErrorReason) bool {
	var e *Error
	return errors.As(err, &e) && e.Reason != "" && "ERROR_REASON_"+e.Reason == reason.String()
}

// What the transport says by itself is written for those who build transports.
var transportWords = map[codes.Code]string{
	codes.Unavailable:      "the server can't be reached",
	codes.Canceled:         "the server dropped the call before answering",
	codes.DeadlineExceeded: "no answer in time",
}

// errorFrom is the error for a failed call, with everything that the server said about it.
func (c *Client) errorFrom(ctx context.Context, failure error, trailer metadata.MD) *Error {
	if c.alive.Err() != nil {
		return closedError()
	}
	st := status.Convert(failure)
	e := &Error{Code: st.Code(), Message: st.Message()}
	for _, detail := range st.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			if detail.GetDomain() == errorDomain {
				e.Reason, e.Metadata = detail.GetReason(), detail.GetMetadata()
			}
		case *errdetails.BadRequest:
			for _, v := range detail.GetFieldViolations() {
				e.Violations = append(e.Violations, FieldViolation{v.GetField(), v.GetDescription()})
			}
		case *errdetails.RetryInfo:
			e.RetryAfter, e.hasRetryInfo = max(0, detail.GetRetryDelay().AsDuration()), true
		}
	}
	e.RequestID = e.Metadata["request_id"]
	if ids := trailer.Get("x-request-id"); len(ids) > 0 {
		e.RequestID = ids[0]
	}
	if words, ok := transportWords[e.Code]; ok && e.Reason == "" {
		e.Message = strings.TrimSuffix(words+": "+e.Message, ": ")
	}
	switch {
	case e.Code == codes.DeadlineExceeded:
		e.cause = context.DeadlineExceeded
	case e.Code == codes.Canceled && ctx.Err() != nil:
		e.Message, e.cause = "the call was cancelled", ctx.Err()
	}
	return e
}

func closedError() *Error {
	return &Error{Code: codes.Canceled, Message: ErrClosed.Error(), cause: ErrClosed}
}

func contextError(err error) *Error {
	if errors.Is(err, context.DeadlineExceeded) {
		return &Error{Code: codes.DeadlineExceeded, Message: transportWords[codes.DeadlineExceeded], cause: err}
	}
	return &Error{Code: codes.Canceled, Message: "the call was cancelled", cause: err}
}

// plain keeps a nil *Error from becoming an error that isn't nil.
func plain(err *Error) error {
	if err == nil {
		return nil
	}
	return err
}
