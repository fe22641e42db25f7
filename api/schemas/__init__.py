"""What the API answers with, as OpenAPI documents it."""
