package com.rewardservice.client;

import io.grpc.Status;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.Optional;

/**
 * A call failed. Decide by {@link #reason()}, or by {@link #code()} where there is none; the message is for people and
 * may change.
 *
 * <p>An order whose outcome is unknown is never an error: the call succeeds and the order's state says so. When {@code
 * createOrder} fails with UNAVAILABLE or DEADLINE_EXCEEDED the order may exist; call again with the same
 * {@link #clientOrderId()}.
 */
public class RewardException extends RuntimeException {
    private static final long serialVersionUID = 1L;

    private final Status.Code code;
    private final String description;
    private final transient Details details;
    private String clientOrderId = "";

    /** What the service itself says about an error; empty for one that was made on the way to it. */
    record Details(
            String reason,
            List<FieldViolation> violations,
            Map<String, String> metadata,
            Optional<Duration> retryAfter,
            String requestId) {
        static final Details NONE = new Details("", List.of(), Map.of(), Optional.empty(), "");
    }

    RewardException(Status.Code code, String description, Details details, Throwable cause) {
        super(description, cause);
        this.code = code;
        this.description = description;
        this.details = details;
    }

    RewardException(Status.Code code, String description) {
        this(code, description, Details.NONE, null);
    }

    /** The gRPC status code. CANCELLED that the caller didn't cause is a lost connection. */
    public Status.Code code() {
        return code;
    }

    /**
     * The name of an {@link com.rewardservice.v1.ErrorReason} without its prefix, as in "PRODUCT_NOT_FOUND". Empty when
     * the error was not made by the service itself but on the way to it.
     */
    public String reason() {
        return details().reason();
    }

    /** One sentence for people. */
    public String description() {
        return description;
    }

    /** Every field of the request that is wrong, all at once. */
    public List<FieldViolation> violations() {
        return details().violations();
    }

    /** What the reason adds, as in "permission" or "order_id". */
    public Map<String, String> metadata() {
        return details().metadata();
    }

    /** How long the server asked to wait before trying again. */
    public Optional<Duration> retryAfter() {
        return details().retryAfter();
    }

    /** What finds the call in the server's log; empty when the call didn't get there. */
    public String requestId() {
        return details().requestId();
    }

    /** Of an error of {@code createOrder}: the id to try again with. Else empty. */
    public String clientOrderId() {
        return clientOrderId;
    }

    /** The description, the fields that are wrong, and in brackets what helps to find the call again. */
    @Override
    public String getMessage() {
        StringBuilder message = new StringBuilder(description);
        for (FieldViolation violation : violations()) {
            // A server with one complaint makes it the description.
            if (!description.contains(violation.description())) {
                message.append("; ").append(violation.field()).append(": ").append(violation.description());
            }
        }
        message.append(" (").append(reason().isEmpty() ? code.name() : reason());
        if (!clientOrderId.isEmpty()) {
            message.append(", client_order_id ").append(clientOrderId);
        }
        if (!requestId().isEmpty()) {
            message.append(", request ").append(requestId());
        }
        return message.append(")").toString();
    }

    RewardException withClientOrderId(String clientOrderId) {
        this.clientOrderId = clientOrderId;
        return this;
    }

    /** Whether the same request may succeed a little later. Safe for every call: creating is idempotent by its id. */
    boolean isRetryable() {
        return code == Status.Code.UNAVAILABLE
                || code == Status.Code.CANCELLED
                || (code == Status.Code.RESOURCE_EXHAUSTED && retryAfter().isPresent())
                || isDoubtful();
    }

    /** Whether it came from the way rather than from the service, so that a few more tries are worth it. */
    boolean isDoubtful() {
        return (code == Status.Code.INTERNAL || code == Status.Code.UNKNOWN) && reason().isEmpty();
    }

    private Details details() {
        // Gone after deserialization.
        return details == null ? Details.NONE : details;
    }
}
