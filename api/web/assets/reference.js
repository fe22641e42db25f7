// The API's reference, from its OpenAPI document.

const place = document.getElementById("reference");
window.SwaggerUIBundle({ url: place.dataset.document, domNode: place, deepLinking: true });
