"""Plain ASGI middleware. (Starlette's BaseHTTPMiddleware would hide a client's disconnect from the routes.)"""
