"""The bus on RabbitMQ; the only part that speaks AMQP."""

from xml_pipeline.message_bus.rabbit.bus import RabbitBus, connect_rabbit

__all__ = ["RabbitBus", "connect_rabbit"]
