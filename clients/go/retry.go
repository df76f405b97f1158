package rewardservice

import (
	"context"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
)

// mostTries is how often in a row an error is believed to come from the way to the server that looks like a defect.
const mostTries = 30

// pace is exponential back-off with full jitter, so that clients cut off together don't come back together.
type pace struct {
	initial, most time.Duration
}

// after is the pause after so many failures in a row (from 1), never less than what the server asked for.
func (p pace) after(failures int, atLeast time.Duration) time.Duration {
	span := min(p.most, p.initial<<min(failures-1, 30))
	if span < p.initial { // the shift ran over
		span = p.most
	}
	return atLeast + time.Duration(rand.Float64()*float64(span))
}

// sleep waits. It ends early, with an error, when the context or the client does.
func (c *Client) sleep(ctx context.Context, pause time.Duration) *Error {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return contextError(ctx.Err())
	case <-c.alive.Done():
		return closedError()
	}
}

// call calls until an answer comes, or an error that no further try mends.
func call[Request, Response any](
	ctx context.Context,
	c *Client,
	timeout time.Duration,
	method func(context.Context, Request, ...grpc.CallOption) (Response, error),
	request Request,
) (Response, *Error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	for failures := 1; ; failures++ {
		response, err := try(ctx, c, method, request)
		if err == nil {
			return response, nil
		}
		pause := c.pace.after(failures, err.RetryAfter)
		deadline, _ := ctx.Deadline()
		if !err.isRetryable() || failures >= mostTries || time.Until(deadline) <= pause {
			return response, err
		}
		if err := c.sleep(ctx, pause); err != nil {
			return response, err
		}
	}
}

// try calls once.
func try[Request, Response any](
	ctx context.Context,
	c *Client,
	method func(context.Context, Request, ...grpc.CallOption) (Response, error),
	request Request,
) (response Response, err *Error) {
	key, err := c.keyFor(ctx)
	if err != nil {
		return response, err
	}
	var trailer metadata.MD
	response, failure := method(signed(ctx, key), request, grpc.Trailer(&trailer))
	if failure != nil {
		return response, c.errorFrom(ctx, failure, trailer)
	}
	return response, nil
}

// isRetryable tells whether the same request may succeed a little later. Every call may be repeated: creating an order
// is the same by its id.
func (e *Error) isRetryable() bool {
	switch e.Code {
	case codes.Unavailable:
		return true
	case codes.Canceled:
		// Ours has a cause; without one it came from a server that is overrun, or from a proxy.
		return e.cause == nil
	case codes.ResourceExhausted:
		return e.hasRetryInfo
	default:
		return e.isDoubtful()
	}
}

// isDoubtful tells whether the error came from the way rather than from the service, whose errors have a reason.
func (e *Error) isDoubtful() bool {
	return e.Reason == "" && (e.Code == codes.Internal || e.Code == codes.Unknown)
}
