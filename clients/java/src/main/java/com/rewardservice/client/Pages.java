package com.rewardservice.client;

import java.util.Iterator;
import java.util.List;
import java.util.NoSuchElementException;
import java.util.function.Function;

/** The items of one page after the other, each page fetched when it is needed. */
final class Pages<P, T> implements Iterator<T> {
    private final Function<String, P> fetch;
    private final Function<P, List<T>> items;
    private final Function<P, String> nextToken;
    private Iterator<T> page = List.<T>of().iterator();

    /** Null after the last page. */
    private String token;

    Pages(String token, Function<String, P> fetch, Function<P, List<T>> items, Function<P, String> nextToken) {
        this.token = token;
        this.fetch = fetch;
        this.items = items;
        this.nextToken = nextToken;
    }

    @Override
    public boolean hasNext() {
        while (!page.hasNext() && token != null) {
            P fetched = fetch.apply(token);
            page = items.apply(fetched).iterator();
            String next = nextToken.apply(fetched);
            token = next.isEmpty() ? null : next;
        }
        return page.hasNext();
    }

    @Override
    public T next() {
        if (!hasNext()) {
            throw new NoSuchElementException();
        }
        return page.next();
    }
}
