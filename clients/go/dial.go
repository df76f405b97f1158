package rewardservice

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
)

// KeyVariable is the environment variable that holds the API key where [WithKey] gives none.
const KeyVariable = "REWARDSERVICE_KEY"

const (
	devKey     = "dev-key"
	maxReceive = 64 << 20  // bytes of an answer: the largest one is a page of 1,000 updates with all their cards
	maxSend    = 256 << 10 // bytes of a request: the server takes no more
)

// LoadTLS makes a configuration for [WithTLS] from PEM files: the authorities to trust (empty: the system's), and the
// client's own certificate and key for mutual TLS (empty: none). The certificate is read again for every connection, so
// that a renewed one is used.
func LoadTLS(caFile, certFile, keyFile string) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return nil, fmt.Errorf("rewardservice: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("rewardservice: %s holds no certificate", caFile)
		}
	}
	if (certFile == "") != (keyFile == "") {
		return nil, errors.New("rewardservice: a certificate and its key go together")
	}
	if certFile != "" {
		load := func() (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(certFile, keyFile)
			return &pair, err
		}
		if _, err := load(); err != nil {
			return nil, fmt.Errorf("rewardservice: %w", err)
		}
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	}
	return config, nil
}

func dialOptions(s *settings) []grpc.DialOption {
	transport := insecure.NewCredentials()
	if s.tls != nil {
		transport = credentials.NewTLS(s.tls)
	}
	return append([]grpc.DialOption{
		grpc.WithTransportCredentials(transport),
		grpc.WithUserAgent("reward-service-go/" + Version),
		// A pulled cable or a forgetful firewall is noticed after 20 + 10 s instead of hours, on quiet streams too.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: 20 * time.Second, Timeout: 10 * time.Second, PermitWithoutStream: true,
		}),
		// gRPC's own pauses between connection attempts grow to two minutes: a server that is back would wait for us.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{
				BaseDelay: 200 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 5 * time.Second,
			},
			MinConnectTimeout: 10 * time.Second,
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReceive), grpc.MaxCallSendMsgSize(maxSend)),
	}, s.dial...)
}

// signer says who calls. The key is kept in a closure, where no way of printing a client finds it.
func signer(target string, s *settings) (func(context.Context) context.Context, error) {
	key := s.key
	if !s.hasKey {
		key = os.Getenv(KeyVariable)
	}
	certified := s.tls != nil && (len(s.tls.Certificates) > 0 || s.tls.GetClientCertificate != nil)
	switch {
	case key != "":
	case s.hasKey:
		return nil, errors.New("rewardservice: the API key is empty")
	case certified:
		return func(ctx context.Context) context.Context { return ctx }, nil
	case isLoopback(target):
		key = devKey
	default:
		return nil, fmt.Errorf("rewardservice: no API key for %s: use WithKey or set %s", target, KeyVariable)
	}
	for _, character := range key {
		if character < '!' || character > '~' {
			return nil, errors.New("rewardservice: an API key consists of printable ASCII characters without spaces")
		}
	}
	return func(ctx context.Context) context.Context {
		return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+key)
	}, nil
}

// isLoopback tells whether a gRPC target never leaves this machine, as far as its name says.
func isLoopback(target string) bool {
	if strings.HasPrefix(target, "unix:") || strings.HasPrefix(target, "unix-abstract:") {
		return true
	}
	for _, scheme := range []string{"dns:", "passthrough:"} {
		target = strings.TrimPrefix(target, scheme)
	}
	address := target[strings.LastIndex(target, "/")+1:]
	host, _, _ := strings.Cut(address, ":")
	if strings.HasPrefix(address, "[") {
		host, _, _ = strings.Cut(address[1:], "]")
	}
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}
