package rewardservice

import (
	"context"
	"errors"
	"fmt"
	"os"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// KeyVariable is the environment variable that holds the API key where neither [WithKey] nor [WithKeyFunc] gives one.
const KeyVariable = "REWARDSERVICE_KEY"

const devKey = "dev-key"

// asker returns the key or token to send now; "" for none. A fixed key is kept in its closure, where no way of printing
// a client finds it.
type asker func(context.Context) (string, error)

// whoCalls finds out what to send, if anything. The error never shows a key.
func whoCalls(target string, s *settings) (asker, error) {
	certified := s.tls != nil && (len(s.tls.Certificates) > 0 || s.tls.GetClientCertificate != nil)
	if s.ask != nil {
		return func(ctx context.Context) (string, error) {
			key, err := s.ask(ctx)
			switch {
			case err != nil:
				return "", err
			case key == "" && !certified:
				return "", errors.New("there is none, and no certificate says who calls")
			}
			return key, sendable(key)
		}, nil
	}
	key := s.key
	if !s.hasKey {
		key = os.Getenv(KeyVariable)
	}
	switch {
	case key != "":
	case s.hasKey:
		return nil, errors.New("rewardservice: the API key is empty")
	case certified:
	case isLoopback(target):
		key = devKey
	default:
		return nil, fmt.Errorf("rewardservice: no API key for %s: use WithKey or set %s", target, KeyVariable)
	}
	if err := sendable(key); err != nil {
		return nil, fmt.Errorf("rewardservice: %w", err)
	}
	return func(context.Context) (string, error) { return key, nil }, nil
}

func sendable(key string) error {
	for _, character := range key {
		if character < '!' || character > '~' {
			return errors.New("an API key consists of printable ASCII characters without spaces")
		}
	}
	return nil
}

// keyFor is the key or token for a call with this context.
func (c *Client) keyFor(ctx context.Context) (string, *Error) {
	if !c.keyMayChange {
		key, _ := c.ask(ctx)
		return key, nil
	}
	asking, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.alive, cancel)()
	key, err := c.ask(asking)
	switch {
	case err == nil:
		return key, nil
	case c.alive.Err() != nil:
		return "", closedError()
	case ctx.Err() != nil:
		return "", contextError(ctx.Err())
	}
	// As with gRPC's own credentials: an error with a code keeps it, so that Unavailable is tried again.
	code := codes.Unauthenticated
	if st, ok := status.FromError(err); ok {
		code = st.Code()
	}
	return "", &Error{Code: code, Message: "no key or token: " + err.Error(), cause: err}
}

// signed is the context of a call that shows a key or token.
func signed(ctx context.Context, key string) context.Context {
	if key == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+key)
}
