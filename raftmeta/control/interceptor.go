package control

import (
	"context"
	"net/http"
	"path"

	"connectrpc.com/connect"
)

// Interceptor lets calls through that Needs allows. It is for the handlers of
// a server that has ConnContext.
func Interceptor() connect.Interceptor { return interceptor{} }

type interceptor struct{}

func permit(ctx context.Context, procedure string) error {
	return Needs[procedure].check(From(ctx), path.Base(procedure))
}

// WrapUnary implements connect.Interceptor.
func (interceptor) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		if err := permit(ctx, req.Spec().Procedure); err != nil {
			return nil, err
		}
		return next(ctx, req)
	}
}

// WrapStreamingHandler implements connect.Interceptor.
func (interceptor) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		if err := permit(ctx, conn.Spec().Procedure); err != nil {
			return err
		}
		return next(ctx, conn)
	}
}

// WrapStreamingClient implements connect.Interceptor; there are no clients here.
func (interceptor) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// Require serves a path that is no method to those who are what need says.
func Require(need Need, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := need.check(From(r.Context()), r.URL.Path); err != nil {
			code := http.StatusForbidden
			if connect.CodeOf(err) == connect.CodeUnauthenticated {
				code = http.StatusUnauthorized
			}
			http.Error(w, err.Error(), code)
			return
		}
		h.ServeHTTP(w, r)
	})
}
