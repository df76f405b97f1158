package com.rewardservice.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.protobuf.Any;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import com.rewardservice.v1.Card;
import com.rewardservice.v1.CreateOrderRequest;
import com.rewardservice.v1.Order;
import com.rewardservice.v1.SnapshotEnd;
import com.rewardservice.v1.StreamOrderUpdatesRequest;
import com.rewardservice.v1.StreamOrderUpdatesResponse;
import io.grpc.Context;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.time.Duration;
import java.util.List;
import java.util.NoSuchElementException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.Supplier;
import java.util.function.UnaryOperator;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** What neither the kit nor the real server shows. */
@Timeout(30)
class RewardClientTest {
    private static final CreateOrderRequest CARD =
            CreateOrderRequest.newBuilder().setProductId("some/card").setQuantity(1).build();

    @Test
    void whatWasLostOnTheWayIsSentAgainUnderTheSameId() throws Exception {
        try (FakeService service = new FakeService().failing(bare(Status.UNAVAILABLE), bare(Status.CANCELLED));
                RewardClient client = service.client()) {
            String id = client.createOrder(CARD).getOrder().getClientOrderId();
            assertEquals(3, service.created.size());
            assertFalse(id.isEmpty());
            service.created.forEach(request -> assertEquals(id, request.getClientOrderId()));
        }
    }

    @Test
    void anErrorWithoutAReasonIsTriedAFewTimesAndCarriesTheIdToGoOnWith() throws Exception {
        StatusRuntimeException torn = bare(Status.INTERNAL);
        try (FakeService service = new FakeService().failing(torn, torn, torn);
                RewardClient client = service.client()) {
            RewardException error = assertThrows(RewardException.class, () -> client.createOrder(CARD));
            assertEquals(3, service.created.size());
            assertEquals(service.created.get(0).getClientOrderId(), error.clientOrderId());
            assertTrue(error.getMessage().contains(error.clientOrderId()));
        }
    }

    @Test
    void anErrorOfTheServiceItselfIsFinal() throws Exception {
        try (FakeService service = new FakeService().failing(rich(Status.Code.INTERNAL, Any.pack(info("INTERNAL"))));
                RewardClient client = service.client()) {
            RewardException error = assertThrows(RewardException.class, () -> client.createOrder(CARD));
            assertEquals("INTERNAL", error.reason());
            assertEquals(1, service.created.size());
        }
    }

    @Test
    void whoIsAskedToWaitLongerThanThereIsTimeIsToldAtOnce() throws Exception {
        RetryInfo tomorrow = RetryInfo.newBuilder()
                .setRetryDelay(com.google.protobuf.Duration.newBuilder().setSeconds(86_400))
                .build();
        StatusRuntimeException full = rich(
                Status.Code.RESOURCE_EXHAUSTED, Any.pack(info("SPEND_LIMIT_REACHED")), Any.pack(tomorrow));
        try (FakeService service = new FakeService().failing(full);
                RewardClient client = service.client()) {
            RewardException error = assertThrows(RewardException.class, () -> client.createOrder(CARD));
            assertEquals(Duration.ofDays(1), error.retryAfter().orElseThrow());
            assertEquals(1, service.created.size());
        }
    }

    @Test
    void anInterruptedThreadStopsAndStaysInterrupted() throws Exception {
        try (FakeService service = new FakeService().silent();
                RewardClient client = service.client()) {
            CompletableFuture<Boolean> stillInterrupted = new CompletableFuture<>();
            Thread caller = new Thread(() -> {
                assertThrows(RewardException.class, () -> client.createOrder(CARD));
                stillInterrupted.complete(Thread.currentThread().isInterrupted());
            });
            caller.start();
            service.asked.await();
            caller.interrupt();
            assertTrue(stillInterrupted.get());
            assertEquals(1, service.created.size());
        }
    }

    @Test
    void aCallOfAContextThatEndsIsNotTriedAgain() throws Exception {
        try (FakeService service = new FakeService().silent();
                RewardClient client = service.client();
                Context.CancellableContext context = Context.current().withCancellation()) {
            Runnable creating = () -> client.createOrder(CARD);
            CompletableFuture<?> call = CompletableFuture.runAsync(context.wrap(creating));
            service.asked.await();
            context.cancel(null);
            ExecutionException error = assertThrows(ExecutionException.class, call::get);
            assertEquals(Status.Code.CANCELLED, ((RewardException) error.getCause()).code());
            assertEquals(1, service.created.size());
        }
    }

    @Test
    void aWatchOutlivesTheContextThatItWasOpenedIn() throws Exception {
        try (FakeService service = new FakeService();
                RewardClient client = service.client()) {
            Context.CancellableContext context = Context.current().withCancellation();
            CompletableFuture<Event> event = CompletableFuture.supplyAsync(() -> {
                try {
                    return context.call(() -> client.watch(StreamOrderUpdatesRequest.getDefaultInstance()).next());
                } catch (Exception error) {
                    throw new CompletionException(error);
                }
            });
            service.asked.await();
            context.cancel(null);
            var end = SnapshotEnd.newBuilder().setResumeToken("here");
            service.send(StreamOrderUpdatesResponse.newBuilder().setSnapshotEnd(end).build());
            assertEquals(new Event.SnapshotEnd("here"), event.join());
        }
    }

    @Test
    void aWatchThatIsClosedByAnotherThreadHasNoMoreEvents() throws Exception {
        try (FakeService service = new FakeService();
                RewardClient client = service.client()) {
            Watch watch = client.watch(StreamOrderUpdatesRequest.getDefaultInstance());
            CompletableFuture<Boolean> more = CompletableFuture.supplyAsync(watch::hasNext);
            service.asked.await();
            watch.close();
            assertFalse(more.join());
        }
    }

    @Test
    void closingTheClientIsAnErrorForItsWatchesAndItsCalls() throws Exception {
        try (FakeService service = new FakeService()) {
            RewardClient client = service.client();
            Watch watch = client.watch(StreamOrderUpdatesRequest.getDefaultInstance());
            CompletableFuture<Boolean> more = CompletableFuture.supplyAsync(watch::hasNext);
            service.asked.await();
            client.close();
            CompletionException error = assertThrows(CompletionException.class, more::join);
            assertTrue(error.getCause().getMessage().contains("the client is closed"));
            assertFalse(watch.hasNext());
            assertThrows(RewardException.class, () -> client.createOrder(CARD));
        }
    }

    @Test
    void aWatchGivesUpWhenItWasToldTo() throws Exception {
        FakeService gone = new FakeService();
        try (RewardClient client = gone.client()) {
            gone.close();
            Watch watch = client.watch(StreamOrderUpdatesRequest.getDefaultInstance(), Duration.ofMillis(20));
            assertEquals(Status.Code.UNAVAILABLE, assertThrows(RewardException.class, watch::hasNext).code());
        }
    }

    @Test
    void waitingEndsInTimeAndSaysSo() throws Exception {
        try (FakeService service = new FakeService();
                RewardClient client = service.client()) {
            WaitTimeoutException error =
                    assertThrows(WaitTimeoutException.class, () -> client.waitFor("X", Duration.ofMillis(50)));
            assertTrue(error.order().isEmpty());
        }
    }

    @Test
    void aKeyThatIsSuppliedIsAskedForAnewForEachCall() throws Exception {
        AtomicInteger made = new AtomicInteger();
        try (FakeService service = new FakeService();
                RewardClient client =
                        service.builder().key(() -> "token-" + made.incrementAndGet()).build()) {
            client.createOrder(CARD);
            client.createOrder(CARD);
            assertEquals(List.of("Bearer token-1", "Bearer token-2"), service.keys);
        }
    }

    @Test
    void whatTheSupplierOfTheKeyDoesWrongIsTheCallersToSee() throws Exception {
        Supplier<String> failing = () -> {
            throw new NoSuchElementException("no token today");
        };
        try (FakeService service = new FakeService();
                RewardClient without = service.builder().key(failing).build();
                RewardClient odd = service.builder().key(() -> "secret key").build()) {
            assertThrows(NoSuchElementException.class, () -> without.createOrder(CARD));
            Watch watch = without.watch(StreamOrderUpdatesRequest.getDefaultInstance());
            assertThrows(NoSuchElementException.class, watch::hasNext);
            var error = assertThrows(IllegalArgumentException.class, () -> odd.createOrder(CARD));
            assertFalse(error.getMessage().contains("secret"));
            assertEquals(List.of(), service.keys);
        }
    }

    @Test
    void aStreamWhoseTokenEndedGoesOnWithAnotherOneWhereItWas() throws Exception {
        AtomicInteger made = new AtomicInteger();
        try (FakeService service = new FakeService().refusingAfter("one", "two", "three");
                RewardClient client =
                        service.builder().key(() -> "token-" + made.incrementAndGet()).build()) {
            Watch watch = client.watch(StreamOrderUpdatesRequest.newBuilder().setResumeToken("zero").build());
            for (String token : List.of("one", "two", "three")) {
                assertEquals(new Event.Heartbeat(token), watch.next());
            }
            assertEquals(List.of("Bearer token-1", "Bearer token-2", "Bearer token-3"), service.keys);
            assertEquals(List.of("zero", "one", "two"), service.resumed);
        }
    }

    @Test
    void aRefusedStreamIsTriedOnceMoreIfThereIsAnotherTokenAndThenTheRefusalIsTold() throws Exception {
        AtomicInteger made = new AtomicInteger();
        assertEquals(1, triesOfARefusedStream(builder -> builder.key("the-same")));
        assertEquals(1, triesOfARefusedStream(builder -> builder.key(() -> "the-same")));
        assertEquals(2, triesOfARefusedStream(builder -> builder.key(() -> "token-" + made.incrementAndGet())));
    }

    private static int triesOfARefusedStream(UnaryOperator<RewardClient.Builder> key) throws Exception {
        try (FakeService service = new FakeService().refusingAfter("", "", "");
                RewardClient client = key.apply(service.builder()).build()) {
            Watch watch = client.watch(StreamOrderUpdatesRequest.getDefaultInstance());
            assertEquals(Status.Code.UNAUTHENTICATED, assertThrows(RewardException.class, watch::hasNext).code());
            return service.keys.size();
        }
    }

    @Test
    void aClientWithACertificateNeedsNoKeyAndSendsNone() throws Exception {
        for (String target : List.of("rewards:1", "127.0.0.1:1")) {
            assertNull(Connection.usableKey(target, null, true));
            assertEquals("some-key", Connection.usableKey(target, "some-key", true));
        }
        assertEquals("dev-key", Connection.usableKey("127.0.0.1:1", null, false));
        assertThrows(IllegalArgumentException.class, () -> Connection.usableKey("rewards:1", null, false));
        assertThrows(IllegalArgumentException.class, () -> Connection.usableKey("127.0.0.1:1", "", true));
    }

    @Test
    void noKeyAndNoCardIsPrinted() {
        try (RewardClient client = RewardClient.builder("127.0.0.1:1").key("secret-key").build()) {
            assertFalse(client.toString().contains("secret-key"));
        }
        IllegalArgumentException odd = assertThrows(
                IllegalArgumentException.class, () -> RewardClient.builder("127.0.0.1:1").key("secret key").build());
        assertFalse(odd.getMessage().contains("secret"));
        Order order = Order.newBuilder().addCards(Card.newBuilder().setSecret("SECRET")).build();
        assertFalse(new Event.Update(order, "t").toString().contains("SECRET"));
        assertFalse(new Event.Snapshot(order).toString().contains("SECRET"));
    }

    @Test
    void theDevelopmentKeyStaysOnThisMachine() {
        for (String here : List.of("127.0.0.1:1", "localhost:1", "dns:///localhost:1", "[::1]:1", "unix:/tmp/s")) {
            assertTrue(Connection.isLoopback(here), here);
        }
        for (String there : List.of("10.0.0.1:1", "127.0.0.1.example.com:1", "localhost.example.com", "[::2]:1")) {
            assertFalse(Connection.isLoopback(there), there);
        }
    }

    @Test
    void yuanAreExact() {
        assertEquals("98.500000000", Yuan.amount(Yuan.of("98.50")).toString());
        assertEquals(-500_000_000, Yuan.of("-0.5").getNanos());
        for (String wrong : List.of("", "ten", "1e400", "0.0000000001", "1000000000000000")) {
            assertThrows(IllegalArgumentException.class, () -> Yuan.of(wrong), wrong);
        }
    }

    private static StatusRuntimeException bare(Status status) {
        return status.withDescription("said a proxy").asRuntimeException();
    }

    private static ErrorInfo info(String reason) {
        return ErrorInfo.newBuilder().setDomain("rewardservice.v1").setReason(reason).build();
    }

    private static StatusRuntimeException rich(Status.Code code, Any... details) {
        var status = com.google.rpc.Status.newBuilder().setCode(code.value()).setMessage("no");
        for (Any detail : details) {
            status.addDetails(detail);
        }
        return StatusProto.toStatusRuntimeException(status.build());
    }
}
