"""Paribus: does it help, all else being equal?"""
