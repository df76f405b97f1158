package rewardservice

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	pb "example.com/rewardservice/rewardservicev1"
)

// DefaultTimeout is how long a unary call may take, retries included, when its context has no deadline.
const DefaultTimeout = 10 * time.Second

// How much of an order an answer shows. The default is basic on unary calls; on streams it is full for clients that may
// read cards. Explained exists on unary calls only.
const (
	ViewDefault   = pb.OrderView_ORDER_VIEW_UNSPECIFIED
	ViewBasic     = pb.OrderView_ORDER_VIEW_BASIC
	ViewFull      = pb.OrderView_ORDER_VIEW_FULL
	ViewExplained = pb.OrderView_ORDER_VIEW_EXPLAINED
)

// Client is a connection to RewardService: one for the whole program, safe for use by many goroutines.
//
// A unary call ends at the deadline of its context, or after [DefaultTimeout] (see [WithTimeout]) if that has none.
// Until then it is tried again where that is safe, which includes orders: they are the same by their client_order_id.
type Client struct {
	target  string
	dial    func() (*grpc.ClientConn, error)
	ask     asker
	timeout time.Duration
	pace    pace
	log     *slog.Logger
	conn    *grpc.ClientConn
	rewards pb.RewardServiceClient
	catalog pb.CatalogServiceClient
	alive   context.Context // until Close
	end     context.CancelFunc

	keyMayChange bool
}

// Option changes what [NewClient] makes.
type Option func(*settings)

type settings struct {
	key     string
	hasKey  bool
	ask     func(context.Context) (string, error)
	tls     *tls.Config
	timeout time.Duration
	pace    pace
	log     *slog.Logger
	dial    []grpc.DialOption
}

// WithKey gives the client's API key, or a token. Without it the environment variable REWARDSERVICE_KEY holds the key. If
// that is empty, too, a client certificate has to say who calls, and no key is sent; without certificate a server on this
// machine is sent "dev-key".
func WithKey(key string) Option {
	return func(s *settings) { s.key, s.hasKey, s.ask = key, true, nil }
}

// WithKeyFunc has a function asked for the key or token to send: for tokens that expire. It is asked before every call
// and every connection of a watch, by many goroutines, so it should keep a token while that is good. When the service
// refuses what a watch shows, it is asked once more, and the watch goes on if that brings another one. Its error ends
// the call or the watch (errors.Is finds it) unless it is a gRPC status that is worth another try, as Unavailable is.
func WithKeyFunc(ask func(context.Context) (string, error)) Option {
	return func(s *settings) { s.ask = ask }
}

// WithTLS makes the connection speak TLS; [LoadTLS] makes a configuration from files. Without it key and cards are
// readable on the way: use that inside one machine, or where something below encrypts.
func WithTLS(config *tls.Config) Option {
	return func(s *settings) { s.tls = config }
}

// WithTimeout says how long a unary call may take, retries included, when its context has no deadline.
func WithTimeout(timeout time.Duration) Option {
	return func(s *settings) { s.timeout = timeout }
}

// WithBackoff says how long to pause after a failure: anything up to initial, doubled with every further failure in a
// row, but not beyond most. The defaults are 0.5 s and 10 s.
func WithBackoff(initial, most time.Duration) Option {
	return func(s *settings) { s.pace = pace{initial, most} }
}

// WithLogger has lost and recovered streams logged. Without it, or with nil, the client is quiet.
func WithLogger(log *slog.Logger) Option {
	return func(s *settings) { s.log = cmp.Or(log, discard) }
}

// WithDialOptions adds gRPC's own options, which win over those of this package.
func WithDialOptions(options ...grpc.DialOption) Option {
	return func(s *settings) { s.dial = append(s.dial, options...) }
}

// NewClient makes a client of the server at a gRPC target such as "rewards.internal:50051". It connects with the first
// call. The error says what is wrong with the arguments, never the key.
func NewClient(target string, options ...Option) (*Client, error) {
	s := settings{timeout: DefaultTimeout, pace: pace{500 * time.Millisecond, 10 * time.Second}, log: discard}
	for _, option := range options {
		option(&s)
	}
	ask, err := whoCalls(target, &s)
	if err != nil {
		return nil, err
	}
	dial := func() (*grpc.ClientConn, error) { return grpc.NewClient(target, dialOptions(&s)...) }
	conn, err := dial()
	if err != nil {
		return nil, fmt.Errorf("rewardservice: %w", err)
	}
	alive, end := context.WithCancel(context.Background())
	return &Client{
		target:  target,
		dial:    dial,
		ask:     ask,
		timeout: s.timeout,
		pace:    s.pace,
		log:     s.log,
		conn:    conn,
		rewards: pb.NewRewardServiceClient(conn),
		catalog: pb.NewCatalogServiceClient(conn),
		alive:   alive,
		end:     end,

		keyMayChange: s.ask != nil,
	}, nil
}

// Close closes the connection. Calls and streams under way end with [ErrClosed].
func (c *Client) Close() error {
	if c.alive.Err() != nil {
		return nil
	}
	c.end()
	return c.conn.Close()
}

// String names the server.
func (c *Client) String() string {
	return "rewardservice.Client(" + c.target + ")"
}

// ID names an order: by [OrderID] or by [ClientOrderID].
type ID struct {
	orderID, clientOrderID string
}

// OrderID names an order by the id that the server gave it.
func OrderID(id string) ID {
	return ID{orderID: id}
}

// ClientOrderID names an order by the id that the client gave it.
func ClientOrderID(id string) ID {
	return ID{clientOrderID: id}
}

// String is the id.
func (id ID) String() string {
	return id.orderID + id.clientOrderID
}

// CreateOrder orders a reward: once, however often it is called with the same ClientOrderId.
//
// Give a ClientOrderId of your own, stored before the call, whenever your program or a person may repeat the call. If
// there is none a new UUID is made: it covers the retries inside this call and nothing after it (Error.ClientOrderID
// has it). The time that the request's Wait allows comes on top of the client's timeout.
func (c *Client) CreateOrder(ctx context.Context, request *pb.CreateOrderRequest) (*pb.CreateOrderResponse, error) {
	if request.GetClientOrderId() == "" {
		request = cloned(request)
		request.ClientOrderId = newUUID()
	}
	response, err := call(ctx, c, c.timeout+request.GetWait().AsDuration(), c.rewards.CreateOrder, request)
	if err != nil {
		err.ClientOrderID = request.GetClientOrderId()
		return nil, err
	}
	return response, nil
}

// GetOrder reads one order.
func (c *Client) GetOrder(ctx context.Context, id ID, view pb.OrderView) (*pb.Order, error) {
	request := &pb.GetOrderRequest{View: view}
	if id.clientOrderID != "" {
		request.Id = &pb.GetOrderRequest_ClientOrderId{ClientOrderId: id.clientOrderID}
	} else {
		request.Id = &pb.GetOrderRequest_OrderId{OrderId: id.orderID}
	}
	response, err := call(ctx, c, c.timeout, c.rewards.GetOrder, request)
	return response.GetOrder(), plain(err)
}

// CancelOrder cancels what can still be cancelled of an order and returns it as it is now. It may be repeated.
//
// If nothing was sent to a supplier the order is CANCELLED. Else CancelRequestedTime is set, nothing new is sent, and
// the order ends as the supplier's evidence says: follow it with [Client.Watch] or [Client.WaitFor].
func (c *Client) CancelOrder(ctx context.Context, id ID, view pb.OrderView) (*pb.Order, error) {
	request := &pb.CancelOrderRequest{View: view}
	if id.clientOrderID != "" {
		request.Id = &pb.CancelOrderRequest_ClientOrderId{ClientOrderId: id.clientOrderID}
	} else {
		request.Id = &pb.CancelOrderRequest_OrderId{OrderId: id.orderID}
	}
	response, err := call(ctx, c, c.timeout, c.rewards.CancelOrder, request)
	return response.GetOrder(), plain(err)
}

// ListOrders yields the orders that fit the request, newest first, cards masked, page after page. The first error ends
// it. A nil request lists all.
func (c *Client) ListOrders(ctx context.Context, request *pb.ListOrdersRequest) iter.Seq2[*pb.Order, error] {
	return func(yield func(*pb.Order, error) bool) {
		page := cloned(request)
		for {
			response, err := call(ctx, c, c.timeout, c.rewards.ListOrders, page)
			if !yieldPage(yield, response.GetOrders(), err) || response.GetNextPageToken() == "" {
				return
			}
			page.PageToken = response.GetNextPageToken()
		}
	}
}

// ListOrderUpdates returns one page of the updates after a token, oldest first; without a token from the oldest that is
// kept. Go on with After = ResumeToken of the response while that says More. A nil request asks for all orders.
func (c *Client) ListOrderUpdates(
	ctx context.Context, request *pb.ListOrderUpdatesRequest,
) (*pb.ListOrderUpdatesResponse, error) {
	response, err := call(ctx, c, c.timeout, c.rewards.ListOrderUpdates, cloned(request))
	return response, plain(err)
}

// ListProducts yields the products that fit the request by their ids, page after page. The first error ends it. A nil
// request lists all.
func (c *Client) ListProducts(ctx context.Context, request *pb.ListProductsRequest) iter.Seq2[*pb.Product, error] {
	return func(yield func(*pb.Product, error) bool) {
		page := cloned(request)
		for {
			response, err := call(ctx, c, c.timeout, c.catalog.ListProducts, page)
			if !yieldPage(yield, response.GetProducts(), err) || response.GetNextPageToken() == "" {
				return
			}
			page.PageToken = response.GetNextPageToken()
		}
	}
}

// GetProduct reads one product.
func (c *Client) GetProduct(ctx context.Context, productID string) (*pb.Product, error) {
	response, err := call(ctx, c, c.timeout, c.catalog.GetProduct, &pb.GetProductRequest{ProductId: productID})
	return response.GetProduct(), plain(err)
}

// WaitFor waits until an order has ended or needs a review (see [IsSettled]) and returns it, with its cards if they may
// be read. An order that isn't there yet is awaited if it is named by its [ClientOrderID].
//
// It waits as long as ctx allows. When that ends first, it returns the order as last seen (nil if it never was) together
// with the error; the order goes on.
func (c *Client) WaitFor(ctx context.Context, id ID, view pb.OrderView) (*pb.Order, error) {
	request := &pb.StreamOrderUpdatesRequest{View: view}
	if id.clientOrderID != "" {
		request.ClientOrderIds = []string{id.clientOrderID}
	} else {
		request.OrderIds = []string{id.orderID}
	}
	var order *pb.Order
	for event, err := range c.Watch(ctx, request) {
		if err != nil {
			return order, err
		}
		if event.Order == nil {
			continue
		}
		if order = event.Order; IsSettled(order) {
			return order, nil
		}
	}
	return order, io.ErrUnexpectedEOF // a stream without UntilTerminal has no end
}

// yieldPage tells whether to go on with the next page.
func yieldPage[T any](yield func(*T, error) bool, items []*T, err *Error) bool {
	if err != nil {
		yield(nil, err)
		return false
	}
	for _, item := range items {
		if !yield(item, nil) {
			return false
		}
	}
	return true
}

// cloned is a copy to change, of an empty message if there is none.
func cloned[M any, P interface {
	*M
	proto.Message
}](message P) P {
	if message == nil {
		return new(M)
	}
	return proto.CloneOf(message)
}

func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails: it ends the program instead
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
